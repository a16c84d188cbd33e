"""`hilbert report`: the numbers of `hilbert compare` in one file that needs nothing else and names nobody."""

import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects
import pytest
from browser import chromium, screenshot
from plotly.offline import get_plotlyjs
from recorded import Recorded, Trial, fold_aucs, predictions, record, study_files
from rich.console import Console
from sweeps import hilbert, write_study

from hilbert.errors import InputError
from hilbert.metrics import auc, expected_calibration_error
from tune.comparison import cells, headings, ranking, show
from tune.importance import NoImportance, importances
from tune.report import write_report
from tune.report.predicted import by_task, calibration, confusion, roc
from tune.space import Choices, Range
from tune.tracking import connect, read_study

pytestmark = pytest.mark.timeout(400)

SECTIONS = ["summary", "leaderboard", "folds", "importance", "slices", "winner", "tasks", "cost", "excluded", "data"]
SECTIONS.append("repeat")
AUC = re.compile(r"\d\.\d{4}(?: ± \d\.\d{4})?")
ODD = ["<b>bold</b>", "<script>window.hurt=1</script>", "a&amp;b </script>"]


class Page(HTMLParser):
    """A report taken apart: its tables as text, its visible text, its figures, and every attribute that could load."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags = {}, Counter()
        self.figures, self.attributes, self.sections, self.text = [], [], [], []
        self._inside, self._table = [], None
        self.feed(text.replace(get_plotlyjs(), ""))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "section":
            self.sections.append(found["id"])
        if tag == "div" and found.get("role") == "region":
            self._table = self.tables.setdefault(found["aria-label"], [])
        if tag == "tr":
            self._table.append([])
        if tag in {"td", "th"}:
            self._table[-1].append("")
        if tag not in {"meta", "link", "img", "br"}:
            self._inside.append((tag, found.get("type")))

    def handle_endtag(self, tag):
        assert self._inside.pop()[0] == tag

    def handle_data(self, data):
        tag, kind = self._inside[-1] if self._inside else ("", None)
        if (tag, kind) == ("script", "application/json"):
            self.figures.append(json.loads(data))
        elif tag not in {"script", "style"}:
            self.text.append(data)
            if tag in {"td", "th"}:
                self._table[-1][-1] += data


def report(client, study, folder):
    """Text of a study's report, and its parts."""
    path = folder / "report.html"
    write_report(client, study, path)
    text = path.read_text(encoding="utf-8")
    assert [found.name for found in folder.iterdir() if found.name.endswith(".part")] == []
    return text, Page(text)


def words(page):
    """The visible text in one line."""
    return " ".join("".join(page.text).split())


# ---- a real sweep ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory, demo_store):
    """A small sweep by the real command, its printed comparison, and its report."""
    folder = tmp_path_factory.mktemp("report")
    write_study(folder, features=str(demo_store))
    done = hilbert("sweep", "study.yaml", folder=folder)
    assert done.returncode == 0, done.stderr
    client = connect(f"sqlite:///{folder}/mlflow.db")
    return folder, done.stdout, client, *report(client, "quick", folder)


def test_the_numbers_are_those_of_compare_to_the_digit(swept):
    _, printed, client, _, page = swept
    study = read_study(client, "quick")
    head, *rows = page.tables["Leaderboard"]
    assert head[: len(headings(study))] == headings(study)
    assert [row[: len(headings(study))] for row in rows] == [cells(row, study) for _, row in ranking(study).iterrows()]
    shown = Counter(number for row in rows for cell in row for number in AUC.findall(cell))
    assert sum(shown.values()) >= 16
    assert shown == Counter(AUC.findall(printed))


def test_every_section_is_there_in_order(swept):
    *_, page = swept
    assert page.sections == SECTIONS
    assert {value for _, name, value in page.attributes if name == "href"} == {f"#{name}" for name in SECTIONS[1:]}
    assert "looks better than it is" in words(page)
    assert "No group crosses a split: each of the 125 groups" in words(page)
    assert "Every document is held out exactly once" in words(page)


def test_no_document_is_named(swept, demo_store):
    *_, text, _ = swept
    text = text.replace(get_plotlyjs(), "")
    names = pd.read_csv(demo_store / "documents.csv", dtype=str)["document_id"]
    assert len(names) == 125
    assert [name for name in names if name in text] == []


def test_nothing_is_loaded_from_elsewhere(swept):
    *_, text, page = swept
    own = text.replace(get_plotlyjs(), "")
    loading = [(tag, name, value) for tag, name, value in page.attributes if name in {"src", "href", "srcset", "data"}]
    assert all(value.startswith("#") for _, _, value in loading), loading
    assert "@import" not in own
    assert "url(" not in own
    assert text.count(get_plotlyjs()) == 1


def test_every_figure_is_one_that_plotly_knows(swept):
    *_, page = swept
    assert len(page.figures) >= 4 + 2 + 9
    for figure in page.figures:
        plotly.graph_objects.Figure(figure)


def test_in_a_browser_nothing_leaves_nothing_complains_and_nothing_sticks_out(swept, tmp_path):
    folder, *_ = swept
    look_at(folder / "report.html", tmp_path, figures=16, widths=(1280, 390))


def look_at(path, folder, *, figures, widths):
    """Opens a report on screens of several widths; returns the visible text of the plots."""
    with chromium() as browser:
        for width in widths:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.set_default_timeout(120_000)
            said, asked = [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            page.wait_for_function("[...document.querySelectorAll('.plot')].every((p) => p.drawn || !p.offsetParent)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("document.body.scrollWidth") <= width
            assert page.locator(".plot svg.main-svg").count() >= figures
            assert page.evaluate("window.hurt") is None
            screenshot(page, f"{path.parent.name}-{width}", folder)
            views = page.locator("#heat option").count()
            for view in range(views):
                page.select_option("#heat", str(view))
                assert page.locator("[data-heat]:visible .main-svg").count() > 0
            text = page.locator(".plot").all_inner_texts()
            assert said == []
            assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
            page.close()
    return text


def test_the_command_writes_it(swept):
    folder, *_ = swept
    done = hilbert("report", "quick", folder=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "quick-report.html").stat().st_size > len(get_plotlyjs())


# ---- odd studies -----------------------------------------------------------------------------------------------------

STUDY = {
    "study": "made",
    "features": "store",
    "tasks": {"affect": "binary", "kind": "multiclass", "age": "regression"},
    "folds": {"n_splits": 3},
    "racing": "wilcoxon",
    "search": {"train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "model.experts": {"choices": [1, 2]}},
    "tracking_uri": "https://user:secret@tracking.example",
}
CLASSES = {"affect": ["no", "yes"], "kind": ["a", "b", "c"], "age": []}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """What may go wrong, in one study: failed and abandoned configurations, undefined folds, missing labels."""
    table = predictions(CLASSES)
    aucs = fold_aucs(table)
    aucs[1]["kind"] = None
    groups = {name: f"g{number // 2}" for number, name in enumerate(sorted(table["document_id"].unique()))}
    failure = 'Traceback:\n  File "x.py"\npkg.errors.BadRow: document secret007 is broken'
    trials = [
        Trial({"train.learning_rate": 0.001, "model.experts": 2}, aucs, predictions=table),
        Trial({"train.learning_rate": 0.01, "model.experts": 1}, {0: aucs[0], 1: failure, 2: aucs[2]}),
        Trial({"train.learning_rate": 0.0002, "model.experts": 1}, {0: aucs[0]}, estimate=0.4321),
    ]
    folder = tmp_path_factory.mktemp("odd")
    study = Recorded(list(CLASSES), trials, 3, files=study_files(STUDY, table, groups=groups))
    client = record(study, folder)
    return folder, client, *report(client, "made", folder)


def test_what_was_excluded_is_told_with_its_reason(odd):
    *_, page = odd
    assert page.tables["Failed folds"][1:] == [["t001", "1", "BadRow"]]
    assert page.tables["Configurations given up"][1:] == [["t002", "1 of 3", "0.4321"]]
    assert [row[:2] for row in page.tables["Undefined folds"][1:]] == [["kind", "1"]]
    assert page.tables["Missing labels"][1:] == [[task, "1", "4.2%"] for task in CLASSES]
    text = words(page)
    assert "1 of them ran on every fold, 1 was given up by racing, 1 was left out because a fold failed." in text
    assert "Racing gave 1 configuration up and saved 2 fold jobs of 9 (22%)." in text


def test_the_heat_map_tells_undefined_from_failed_from_not_run(odd):
    *_, page = odd
    kind = page.figures[2]["data"]
    state, values = kind[0]["z"], kind[1]["z"]
    assert [[cell is None for cell in row] for row in values] == [
        [False, True, False],
        [False, True, False],
        [False, True, True],
    ]
    assert state == [[None, None, None], [None, 1, None], [None, 0, 0]]
    assert [word.split(": ")[1] for word in kind[1]["hovertext"][1]][1] == "failed"


def test_the_winners_interval_resamples_groups_and_the_rest_is_of_its_predictions(odd):
    _, _, _, page = odd
    rows = {row[0]: row for row in page.tables["The winner by task"][1:]}
    assert [rows[task][1] for task in CLASSES] == ["binary", "multiclass", "regression"]
    assert [rows[task][3] for task in CLASSES] == ["3 of 3", "2 of 3", "3 of 3"]
    assert {row[6] for row in rows.values()} == {"23"}
    groups = {f"secret{number:03d}": f"g{number // 2}" for number in range(24)}
    low, high = by_task(predictions(CLASSES), ["age"], groups)["age"].interval()
    assert rows["age"][5] == f"{low:.4f} to {high:.4f}"
    assert [row[0] for row in page.tables["Other measures of the winner by task"][1:]] == ["affect", "kind"]


def test_documents_and_passwords_are_not_told(odd):
    *_, text, page = odd
    assert "secret" not in text.replace(get_plotlyjs(), "")
    assert "https://***@tracking.example" in words(page)


def test_cost_is_summed(odd):
    *_, page = odd
    head, *rows = page.tables["Cost by configuration"]
    assert head == ["configuration", "fold jobs", "seconds", "GPU seconds"]
    assert rows[-1] == ["all", "7", "14.0", "10.5"]


def test_log_scaled_parameters_have_a_log_axis(odd):
    *_, page = odd
    axes = [figure["layout"]["xaxis"].get("type") for figure in page.figures]
    assert axes.count("log") == 1


def test_a_group_on_both_sides_of_a_split_is_cried_out(tmp_path):
    table = predictions({"affect": ["no", "yes"]})
    aucs = fold_aucs(table)
    files = study_files(STUDY | {"tasks": {"affect": "binary"}}, table, groups=dict.fromkeys(table["document_id"], "g"))
    client = record(Recorded(["affect"], [Trial({}, aucs, predictions=table)], 3, files=files), tmp_path)
    assert "WRONG: groups stand 3 times in more than one part of a fold" in words(report(client, "made", tmp_path)[1])


def test_names_are_shown_letter_by_letter(tmp_path):
    """Classes and tasks are the user's: no tag in them works, in the page or within a plot."""
    tasks = {"<i>task</i>": ODD[:2], "b": ODD}
    table = predictions(tasks)
    aucs, groups = fold_aucs(table), {name: name for name in table["document_id"]}
    files = study_files(STUDY, table, groups=groups) | {"study.yaml": f"study: {ODD[1]}"}
    params = {"model.experts": ODD[1], "loss.cka": 1}
    client = record(Recorded(list(tasks), [Trial(params, aucs, predictions=table)], 3, files=files), tmp_path)
    text, page = report(client, "made", tmp_path)
    assert page.tags["script"] == 2 + len(page.figures)
    assert page.tags["i"] == text.count('<i class="')
    assert page.tags["b"] == text.count('<b class="')
    classes = {row[2] for row in page.tables["Documents by class"][1:]}
    assert classes == set(ODD)
    assert page.tables["The winner by task"][1][0] == "<i>task</i>"
    drawn = look_at(tmp_path / "report.html", tmp_path, figures=4, widths=(390,))
    assert any("<b>bold</b>" in found for found in drawn)
    assert any(ODD[2][:10] in found for found in drawn)


def test_one_configuration_and_nothing_searched(tmp_path):
    table = predictions({"age": []}, repeats=2)
    client = record(Recorded(["age"], [Trial({}, fold_aucs(table), predictions=table)], 6), tmp_path)
    page = report(client, "made", tmp_path)[1]
    text = words(page)
    assert page.sections == SECTIONS
    assert "Nothing was searched." in text
    assert "A single configuration was tried" in text
    assert "looks better than it is" not in text
    assert "every document is counted once in each repeat" in text
    assert page.tables["The winner by task"][1][6] == "23"


def test_an_older_study_without_files_says_what_is_missing(tmp_path):
    trials = [Trial({"loss.cka": 0.1 * number}, {0: {"x": 0.5 + 0.01 * number}}) for number in range(1, 4)]
    page = report(record(Recorded(["x"], trials, 1), tmp_path), "made", tmp_path)[1]
    text = words(page)
    assert page.sections == SECTIONS
    assert "The study file (study/study.yaml) was not recorded" in text
    assert "its held-out predictions can't be had" in text.lower()
    assert "can't be shown here" in text
    assert "Too few configurations have a result: 3. Importances need 8 or more." in text


def test_nothing_ranked(tmp_path):
    trials = [Trial({"loss.cka": 0.1}, {0: "ValueError: no"}), Trial({"loss.cka": 0.2}, {0: {"x": 0.5}})]
    page = report(record(Recorded(["x"], trials, 2), tmp_path), "made", tmp_path)[1]
    assert page.sections == SECTIONS
    assert "nothing is ranked" in words(page)
    assert page.tables["Failed folds"][1:] == [["t000", "0", "ValueError"]]


def test_what_compare_prints_of_an_odd_study_stands_in_its_report(odd):
    _, client, _, page = odd
    console = Console(file=io.StringIO(), width=240)
    show(read_study(client, "made"), console)
    printed = Counter(AUC.findall(console.file.getvalue()))
    assert printed == Counter(
        found for row in page.tables["Leaderboard"] for cell in row for found in AUC.findall(cell)
    )
    assert "0.4321" in printed


def test_logarithms_of_parameters_are_not_shown_beside_them(tmp_path):
    params = {"train.learning_rate": 0.01, "train.learning_rate.log10": -2.0}
    client = record(Recorded(["x"], [Trial(params, {0: {"x": 0.5}})], 1), tmp_path)
    found = ranking(read_study(client, "made"))
    assert [name for name in found.columns if name.startswith("params.")] == ["params.train.learning_rate"]


# ---- where it is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "expected"), [("nowhere/r.html", "no folder"), ("", "is a folder")])
def test_a_place_that_cannot_be_written_is_refused(odd, tmp_path, where, expected):
    _, client, *_ = odd
    with pytest.raises(InputError, match=expected):
        write_report(client, "made", tmp_path / where)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_leaves_the_old_report(odd, tmp_path):
    _, client, *_ = odd
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(InputError, match="no study 'other'"):
        write_report(client, "other", path)
    assert path.read_text() == "old"
    write_report(client, "made", path)
    assert path.read_text().lstrip().startswith("<!DOCTYPE html>")


# ---- importances -----------------------------------------------------------------------------------------------------

SPACE = {"loss.cka": Range(low=0, high=1), "loss.mi": Range(low=0.01, high=1, log=True), "x": Choices(choices=["a", 2])}


def drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    choices = ["a", 2]
    return [
        {"loss.cka": float(rng.random()), "loss.mi": float(10 ** -(2 * rng.random())), "x": choices[rng.integers(2)]}
        for _ in range(n)
    ]


@pytest.mark.parametrize("planted", SPACE)
def test_the_parameter_that_matters_comes_first(planted):
    places = {"loss.cka": lambda v: v, "loss.mi": np.log10, "x": lambda v: float(v == "a")}
    trials = [(values, float(places[planted](values[planted]))) for values in drawn(40)]
    found = importances(trials, SPACE)
    assert next(iter(found)) == planted
    assert found[planted] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert found == importances(trials, SPACE)


def test_importances_that_cannot_be_told_say_why():
    trials = [(values, values["loss.cka"]) for values in drawn(7)]
    with pytest.raises(NoImportance, match=r"Too few .* 7\."):
        importances(trials, SPACE)
    with pytest.raises(NoImportance, match="Nothing varies"):
        importances([(values, 0.5) for values in drawn(20)], SPACE)
    with pytest.raises(NoImportance, match="Nothing varies"):
        importances([(drawn(1)[0], float(number)) for number in range(20)], SPACE)
    with pytest.raises(NoImportance, match="Nothing was searched"):
        importances([({}, 0.5)] * 20, {})


# ---- curves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_curves_agree_with_the_metrics(seed):
    table = predictions({"b": ["no", "yes"], "m": ["x", "y", "z"]}, documents=40, seed=seed)
    for found in by_task(table.sample(frac=1, random_state=seed), ["b", "m"], None).values():
        known = found.labelled
        area = [np.trapezoid(true, false) for _, false, true in roc(found).pooled]
        assert np.mean(area) == pytest.approx(auc(found.labels, found.scores, found.kind))
        bins = calibration(found)
        error = sum(b.documents * abs(b.confidence - b.frequency) for b in bins) / known.sum()
        assert error == pytest.approx(expected_calibration_error(found.labels, found.scores, found.kind))
        assert all(0 <= b.low <= b.frequency <= b.high <= 1 and b.low < b.high for b in bins)
        counts = confusion(found)
        assert counts.sum(1).tolist() == [int((found.labels == c).sum()) for c in range(len(found.classes))]
        assert counts.trace() == (found.scores[known].argmax(1) == found.labels[known]).sum()


def test_the_interval_is_wider_when_documents_come_in_groups():
    table = predictions({"b": ["no", "yes"]}, documents=60, seed=1)
    names = sorted(table["document_id"].unique())
    labels = table.drop_duplicates("document_id").set_index("document_id")["label"]
    order = sorted(names, key=lambda name: str(labels[name]))
    groups = {name: f"g{number // 10}" for number, name in enumerate(order)}
    alone, together = (by_task(table, ["b"], known)["b"].interval() for known in (None, groups))
    assert alone != together
    assert alone == by_task(table, ["b"], dict.fromkeys(names, ""))["b"].interval()


def test_a_repeat_is_told_by_how_often_a_document_was_held_out():
    found = by_task(predictions({"b": ["no", "yes"]}, repeats=3), ["b"], None)["b"]
    assert np.bincount(found.repeats).tolist() == [24, 24, 24]
    assert (found.folds // 3 == found.repeats).all()
