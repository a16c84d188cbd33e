"""The leaderboard's link, its saved views and `hilbert ui`, looked at in a real browser over a real MLflow server."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import chromium, new_page, screenshot
from hypothesis import given
from hypothesis import strategies as st
from large_study import LOG_PARAMETERS, PARAMETERS, TASKS, write_study
from sweeps import LIMIT, environment

from hilbert.errors import InputError
from tune.leaderboard import CHARTS, LEADERBOARD, TRIALS_ONLY, is_tested, leaderboard_url, save_views
from tune.selection import objective_metric
from tune.space import Study
from tune.tracking import connect
from tune.ui import _choose_port, _running_server, _state_file, announce, ui, way_in

pytestmark = pytest.mark.timeout(500)

RUN = re.compile(r"t\d{3} [0-9a-f]{8}")
STUDY = Study(
    study="parents",
    features="features",
    tasks=dict.fromkeys(TASKS, "binary"),
    search={
        "loss.contrastive": {"low": 0.01, "high": 2.0, "log": True},
        "loss.cka": {"low": 0.0, "high": 1.0},
        "model.experts": {"choices": [1, 2, 4, 8]},
        "train.learning_rate": {"low": 1e-4, "high": 5e-3, "log": True},
    },
)
VIEWS = {"objective": "mean_auc", "tasks": TASKS, "parameters": PARAMETERS, "log_parameters": LOG_PARAMETERS}


def start_ui(recorded, *, study="parents"):
    """`hilbert ui` in a process of its own, and the link that it prints."""
    code = f"import sys; from tune.ui import ui; sys.exit(ui({study!r}, uri={recorded.uri!r}, browser=False))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    link = process.stdout.readline().strip()
    assert link, process.communicate(timeout=LIMIT)[1]
    return process, link


def stop_ui(process, how):
    process.send_signal(how)
    process.communicate(timeout=LIMIT)
    return process.returncode


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("recorded") / "a study's folder", trials=60, folds=25)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("small"), trials=2, folds=3)


@pytest.fixture(scope="module")
def link(recorded):
    process, found = start_ui(recorded)
    yield found
    assert stop_ui(process, signal.SIGINT) == 0
    assert not answers(found)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def server_of(link):
    return link.split("/#/")[0]


def answers(address):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", urlsplit(address).port)) == 0


def shown_runs(page):
    """Names of the rows that are on the page, from top to bottom."""
    rows = page.locator(".ag-pinned-left-cols-container .ag-row")
    found = rows.evaluate_all("rows => rows.map(row => [Number(row.getAttribute('row-index')), row.innerText])")
    return [RUN.search(text).group() if RUN.search(text) else text for _, text in sorted(found)]


def open_table(browser, address, best):
    page = new_page(browser)
    page.goto(address)
    page.locator(".ag-row").get_by_text(best).wait_for()
    return page


# ---- what one sees ---------------------------------------------------------------------------------------------------


def test_the_link_shows_the_trials_alone_best_first(browser, recorded, link, tmp_path):
    page = open_table(browser, link, recorded.ranked[0])
    assert shown_runs(page)[:10] == recorded.ranked[:10]
    assert page.get_by_text("60 matching runs").count() == 1
    screenshot(page, "leaderboard", tmp_path)
    page.locator(".ag-body-viewport").evaluate("body => { body.scrollTop = body.scrollHeight }")
    page.locator(".ag-row").get_by_text(recorded.others[0]).wait_for()
    last = shown_runs(page)[-len(recorded.others) :]
    assert sorted(last) == sorted(recorded.others)
    screenshot(page, "leaderboard_end", tmp_path)


def test_the_table_holds_what_ranks_the_trials_and_what_was_searched(browser, recorded, link, tmp_path):
    page = new_page(browser, width=3600)
    page.goto(link)
    page.locator(".ag-row").get_by_text(recorded.ranked[0]).wait_for()
    page.locator(".ag-header-cell").get_by_text("train.learning_rate", exact=True).wait_for()
    screenshot(page, "leaderboard_wide", tmp_path)
    cells = page.locator(".ag-header-cell").evaluate_all(
        "cells => cells.map(cell => [cell.getBoundingClientRect().x, cell.innerText.trim()])"
    )
    metrics = ["cv/auc_mean", "cv/auc_se", *(f"{task}/auc_mean" for task in TASKS)]
    metrics += ["cv/folds_done", "cost/seconds", "cv/auc_corrected"]
    expected = ["Run Name", "Created", *metrics, *PARAMETERS, "Duration"]
    assert [text for _, text in sorted(cells) if text] == expected


def test_the_plain_link_shows_the_same_trials_in_the_same_order(browser, recorded, link, tmp_path):
    experiment = connect(recorded.uri).get_experiment(recorded.experiment)
    address = leaderboard_url(server_of(link), experiment.experiment_id, "mean_auc")
    page = open_table(browser, address, recorded.ranked[0])
    assert shown_runs(page)[:10] == recorded.ranked[:10]
    assert page.get_by_text("60 matching runs").count() == 1
    screenshot(page, "plain", tmp_path)


def test_the_charts_are_three_and_drawn(browser, recorded, link, tmp_path):
    page = new_page(browser, height=1300)
    page.goto(leaderboard_url(server_of(link), recorded.experiment, "mean_auc", CHARTS))
    charts = page.locator("[data-testid='experiment-view-compare-runs-card']")
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
    page.locator(".parcoords").first.wait_for(state="attached")
    headings = [charts.nth(number).inner_text().splitlines()[0] for number in range(charts.count())]
    screenshot(page, "charts", tmp_path)
    assert headings == ["Parallel Coordinates", "fold/auc", "cost/seconds vs. cv/auc_mean"]


# ---- the link and the views ------------------------------------------------------------------------------------------


@given(st.text(max_size=40), st.text(min_size=1, max_size=40), st.sampled_from([None, LEADERBOARD, CHARTS]))
def test_the_link_survives_any_names(objective, experiment, view):
    address = urlsplit(leaderboard_url("http://server:5000/mlflow/", experiment, objective, view))
    assert (address.netloc, address.path, address.query) == ("server:5000", "/mlflow/", "")
    page, _, query = address.fragment.partition("?")
    assert page.count("/") == 3
    told = {name: value for name, [value] in parse_qs(query, keep_blank_values=True, strict_parsing=True).items()}
    assert told["workflowType"] == "machine_learning"
    if view is None:
        assert told["searchFilter"] == TRIALS_ONLY
        assert told["orderByKey"] == f"metrics.`{objective_metric(objective)}`"
        assert told["orderByAsc"] == "false"
    else:
        assert told["viewStateShareKey"] == view
        assert not {"searchFilter", "orderByKey"} & set(told), "with these the UI ignores the view"


def test_views_are_written_over_and_do_not_pile_up(small):
    client = connect(small.uri)

    def tags():
        found = client.get_experiment(small.experiment).tags
        return {key: value for key, value in found.items() if key.startswith("mlflow.sharedViewState.")}

    assert save_views(client, small.experiment, **VIEWS) == (LEADERBOARD, CHARTS)
    first = tags()
    assert len(first) == 2
    assert save_views(client, small.experiment, **VIEWS) == (LEADERBOARD, CHARTS)
    assert tags() == first
    assert save_views(client, small.experiment, **VIEWS | {"parameters": ["loss.cka"]}) == (LEADERBOARD, CHARTS)
    changed = tags()
    assert set(changed) == set(first)
    assert changed != first


@contextmanager
def stub_server(version):
    """A server that tells its version and refuses everything else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/version"
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(version.encode() if known else b"{}")

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("version", ["3.17.2", "3.16.0", "4.0.0", "<html>"])
def test_where_views_cannot_be_written_the_plain_link_is_left(version):
    from mlflow import MlflowClient

    with stub_server(version) as address:
        client = MlflowClient(address)
        assert save_views(client, "1", **VIEWS) == (None, None)
        assert announce(client, "1", STUDY) == leaderboard_url(address, "1", "mean_auc")


def test_views_are_for_tested_versions():
    import mlflow

    assert is_tested(mlflow.__version__), "look at the views in this version's UI, then add it to leaderboard.TESTED"
    assert is_tested("3.17.0")
    assert is_tested("3.18.0")
    assert not any(is_tested(version) for version in ("3.1", "3.170.0", "2.17.2", "", None))


# ---- hilbert ui ------------------------------------------------------------------------------------------------------


def test_a_second_ui_uses_the_server_of_the_first(recorded, link, capsys):
    assert ui("parents", uri=recorded.uri, browser=False) == 0
    out, _ = capsys.readouterr()
    assert out.strip() == link


def test_a_tracking_server_is_opened_at_once(recorded, link, capsys):
    assert ui("parents", uri=server_of(link), browser=False) == 0
    assert capsys.readouterr().out.strip() == link
    assert announce(connect(server_of(link)), recorded.experiment, STUDY) == link


def test_a_server_over_another_database_is_not_taken_for_ours(recorded, link, small):
    client, state = connect(small.uri), _state_file(small.database)
    experiment = client.get_experiment(small.experiment)
    theirs = json.loads(_state_file(recorded.database).read_text())
    named = theirs | {"database": str(small.database.resolve())}
    for content in (theirs, named, named | {"pid": 2**22 + 1}, {}, []):
        state.write_text(json.dumps(content))
        assert _running_server(small.database, experiment) is None
    state.unlink()
    true = connect(recorded.uri).get_experiment(recorded.experiment)
    assert _running_server(recorded.database, true) == server_of(link)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_server_ends_with_the_command_in_whatever_way_it_ends(small, how, code):
    process, link = start_ui(small)
    state = _state_file(small.database)
    assert answers(link)
    assert state.exists()
    assert stop_ui(process, how) == code
    deadline = time.monotonic() + LIMIT
    while answers(link):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert state.exists() == (how == signal.SIGKILL)  # believed by nobody: its process is gone
    assert _running_server(small.database, connect(small.uri).get_experiment(small.experiment)) is None


def test_what_is_not_there_is_told_in_one_line(small, tmp_path):
    with pytest.raises(InputError, match=r"no study 'other' at sqlite:.*it holds parents"):
        ui("other", uri=small.uri, browser=False)
    with pytest.raises(InputError, match=r"no study 'parents': there is no .*mlflow\.db"):
        ui("parents", uri=f"sqlite:///{tmp_path}/mlflow.db", browser=False)
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_left_to_whoever_has_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="taken"):
            _choose_port(taken.getsockname()[1])
    assert _choose_port(None) > 1023


def test_a_sweep_announces_the_command_that_opens_a_store(small, monkeypatch):
    client = connect(small.uri)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert announce(client, small.experiment, STUDY) == f"hilbert ui parents --tracking-uri {small.uri}"
    monkeypatch.chdir(small.database.parent)
    assert announce(client, small.experiment, STUDY) == "hilbert ui parents"


def test_who_sits_at_another_computer_is_told_the_way_to_the_server():
    there = {"SSH_CONNECTION": "10.0.0.2 51000 10.0.0.1 22"}
    assert "ray attach CLUSTER.yaml -p 5001" in way_in("http://127.0.0.1:5001", there)
    assert way_in("http://127.0.0.1:5001", {}) == ""
    assert way_in("https://mlflow.lab.org", there) == ""
    assert way_in("sqlite:///mlflow.db", there) == ""
