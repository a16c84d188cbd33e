"""`hilbert report`: the numbers of `hilbert compare` in one file that needs nothing else and names nobody."""

import io
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects
import pytest
from browser import chromium, screenshot
from contests import TASKS, make, table, write
from plotly.offline import get_plotlyjs
from recorded import Recorded, Trial, artifacts_of, fold_aucs, predictions, record, study_files
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score
from sweeps import hilbert

from hilbert.calibration import fit_calibrator
from hilbert.errors import InputError
from hilbert.metrics import (
    auc,
    bbc_cv,
    brier,
    corrected_resampled_ttest,
    expected_calibration_error,
    holm,
    pooled_auc,
)
from tune.choice import by_hand, choose, record_choice
from tune.comparison import ALL_TASKS, cells, headings, ranking, show
from tune.contest import best_trial
from tune.importance import NoImportance, importances
from tune.report import write_report
from tune.report.calibrated import calibrated
from tune.report.predicted import by_task, calibration, confusion, mean_interval, of_trial, roc
from tune.space import Choices, Range
from tune.tracking import connect, read_study

pytestmark = pytest.mark.timeout(400)

SECTIONS = ["summary", "leaderboard", "folds", "importance", "slices", "winner", "calibration", "tasks", "cost"]
SECTIONS += ["excluded", "data", "repeat"]
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
def swept(tmp_path_factory, quick_sweep):
    """A small sweep by the real command, its printed comparison, and its report."""
    folder = quick_sweep.copy(tmp_path_factory.mktemp("report"))
    client = connect(f"sqlite:///{folder}/mlflow.db")
    return folder, quick_sweep.stdout, client, *report(client, "quick", folder)


def test_the_numbers_are_those_of_compare_to_the_digit(swept):
    _, printed, client, _, page = swept
    study = read_study(client, "quick")
    head, *rows = page.tables["Leaderboard"]
    assert head[: len(headings(study))] == headings(study)
    assert [row[: len(headings(study))] for row in rows] == [cells(row, study) for _, row in ranking(study).iterrows()]
    shown = Counter(number for row in rows for cell in row[: len(headings(study))] for number in AUC.findall(cell))
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
    assert list(rows) == [ALL_TASKS, *CLASSES]
    assert [rows[task][1] for task in CLASSES] == ["binary", "multiclass", "regression"]
    assert [rows[task][4] for task in CLASSES] == ["3 of 3", "2 of 3", "3 of 3"]
    assert [rows[task][2] for task in CLASSES] == ["23"] * 3
    groups = {f"secret{number:03d}": f"g{number // 2}" for number in range(24)}
    low, high = by_task(predictions(CLASSES), ["age"], groups)["age"].interval()
    assert rows["age"][5].split("\n")[1] == f"{low:.4f} to {high:.4f}"
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
    assert page.tables["The winner by task"][2][0] == page.tables["What the winner is worth"][2][0] == "<i>task</i>"
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
    assert page.tables["The winner by task"][1][2] == "23"


def test_an_older_study_without_files_says_what_is_missing(tmp_path):
    trials = [Trial({"loss.cka": 0.1 * number}, {0: {"x": 0.5 + 0.01 * number}}) for number in range(1, 4)]
    page = report(record(Recorded(["x"], trials, 1), tmp_path), "made", tmp_path)[1]
    text = words(page)
    assert page.sections == SECTIONS
    assert "The study file (study/study.yaml) was not recorded" in text
    assert "its held-out predictions can't be had" in text.lower()
    assert "can't be shown here" in text
    assert "What to expect can't be told: the study's splits and data are not recorded with it" in text
    assert page.tables["Leaderboard"][0][-1] == "loss.cka"
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


# ---- the winner without the luck of its choice -----------------------------------------------------------------------


def bounds(text):
    """The numbers of a cell."""
    return [float(number) for number in re.findall(r"\d\.\d{4}", text)]


def test_the_corrected_numbers_are_those_of_the_predictions_in_mlflow(swept):
    """A real sweep: everything again from the artifacts, without `tune.evidence`."""
    folder, _, client, _, page = swept
    study = read_study(client, "quick")
    tables = {
        row["trial"]: pd.read_parquet(artifacts_of(client, row["run"]) / "predictions.parquet")
        for _, row in study.trials.iterrows()
    }
    splits = pd.read_csv(folder / "mlartifacts" / "quick" / "study" / "splits.csv", dtype=str, keep_default_na=False)
    labels, scores, kinds = {}, {}, {}
    for task in study.tasks:
        first = tables[0][tables[0]["task"] == task]
        classes = first["class"].unique().tolist()
        shown = first.drop_duplicates("document_id").set_index("document_id")["label"].loc[splits["document_id"]]
        labels[task] = shown.map({name: float(number) for number, name in enumerate(classes)}).to_numpy(float)
        wide = [
            one[one["task"] == task].pivot(index="document_id", columns="class", values="score")
            for one in tables.values()
        ]
        scores[task] = np.array([[one.loc[splits["document_id"], classes].to_numpy()] for one in wide])
        kinds[task] = "binary" if len(classes) == 2 else "multiclass"
    groups = splits["group_id"].where(splits["group_id"].ne(""), splits["document_id"]).tolist()
    found = bbc_cv(labels, scores, kinds, groups=groups)
    rows = {row[0]: row for row in page.tables["What the winner is worth"]}
    for name, expected in {ALL_TASKS: found.objective, **found.tasks}.items():
        assert bounds(rows[name][2]) == [round(value, 4) for value in (expected.corrected, *expected.interval)]
        assert rows[name][1:] == next(row for row in page.tables["The winner by task"] if row[0] == name)[-2:]
    winner = int(ranking(study)["trial"].iloc[0])
    known = ~np.isnan(labels["gender"])
    raw = roc_auc_score(labels["gender"][known], scores["gender"][winner, 0, known, 1])
    assert bounds(rows["gender"][1])[0] == pytest.approx(raw, abs=6e-5)
    target = found.objective
    publish = f"Publish {target.corrected:.4f} (95 % interval {target.interval[0]:.4f} to {target.interval[1]:.4f})"
    assert f"{publish}, not {bounds(rows[ALL_TASKS][1])[0]:.4f}:" in words(page)
    assert "of the best of 2 configurations on new people" in words(page)


@pytest.mark.parametrize("objective", ["mean_auc", "affect"])
def test_the_number_to_publish_is_the_objectives(tmp_path, objective):
    made = make([0.9, 1.0, 0.2, 0.8], objective=objective, group=2, abandoned={3: [0, 2]}, failed={2: [1]})
    page = report(write(made, tmp_path), "made", tmp_path)[1]
    kept = [0, 1, 3]  # in which no fold failed
    found = bbc_cv(
        made.labels,
        {task: values[kept] for task, values in made.scores.items()},
        {task: spec.kind for task, spec in TASKS.items()},
        task=objective if objective in TASKS else None,
        groups=made.groups,
    )
    head, *rows = page.tables["What the winner is worth"]
    assert head == ["AUC", "pooled", "bias-corrected"]
    assert [row[0] for row in rows] == [*([ALL_TASKS] if objective == "mean_auc" else []), *TASKS]
    assert {row[0]: bounds(row[2])[0] for row in rows if row[0] in TASKS} == {
        task: round(one.corrected, 4) for task, one in found.tasks.items()
    }
    assert f"Publish {found.objective.corrected:.4f} (95 % interval" in words(page)
    assert "of the best of 3 configurations" in words(page)


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_interval_of_the_mean_resamples_groups_in_all_tasks_alike(repeats):
    made = make([1.0], repeats=repeats, n_splits=3, group=2)
    parts = of_trial(made, 0)
    for found in parts.values():
        assert mean_interval([found]) == pytest.approx(found.interval(), abs=1e-12)
    codes = np.array([made.groups.index(group) for group in made.groups]) // 2  # 0, 0, 1, 1, ...
    draws = np.random.Generator(np.random.PCG64(0)).multinomial(20, np.full(20, 1 / 20), size=1000)
    values = []
    for draw in draws:
        rows = np.repeat(np.arange(40), draw[codes])
        aucs = [
            pooled_auc(
                [made.labels[task][rows]] * repeats,
                [made.scores[task][0, repeat][rows] for repeat in range(repeats)],
                spec.kind,
                repeats=list(range(repeats)),
            )
            for task, spec in TASKS.items()
        ]
        if None not in aucs:
            values.append(np.mean(aucs))
    assert np.quantile(values, [0.025, 0.975]) == pytest.approx(mean_interval(list(parts.values())), abs=1e-9)


@pytest.mark.parametrize("shape", [{"repeats": 3, "n_splits": 2}, {"group": 4, "abandoned": {0: [1, 2]}}])
def test_predictions_are_the_same_from_the_evidence_and_from_the_file(shape):
    made = make([0.5, 0.5], documents=30, **shape)
    groups = dict(zip(made.documents, made.groups, strict=True))
    written = by_task(table(made, 0).sample(frac=1, random_state=0), list(TASKS), groups)
    for task, found in of_trial(made, 0).items():
        other = written[task]
        order = [other.classes.index(name) for name in found.classes]  # in a file as they come
        assert (found.kind, found.documents, found.groups) == (other.kind, other.documents, other.groups)
        np.testing.assert_array_equal(found.folds, other.folds)
        if "abandoned" not in shape:  # else the file can't tell the repeat
            np.testing.assert_array_equal(found.repeats, other.repeats)
        np.testing.assert_array_equal(found.scores, other.scores[:, order] if order else other.scores)
        known = found.labelled
        np.testing.assert_array_equal(known, other.labelled)
        renamed = [found.classes.index(other.classes[int(y)]) if order else y for y in other.labels[known]]
        np.testing.assert_array_equal(found.labels[known], renamed)


class Counting:
    """A client that counts what it downloads."""

    def __init__(self, client):
        self._client, self.downloads = client, Counter()

    def __getattr__(self, name):
        return getattr(self._client, name)

    def download_artifacts(self, run, path, *rest):
        self.downloads[run, path] += 1
        return self._client.download_artifacts(run, path, *rest)


def test_no_runs_artifact_is_downloaded_twice(tmp_path):
    client = Counting(write(make([1.0, 0.5, 0.4], failed={2: [0]}), tmp_path))
    report(client, "made", tmp_path)
    assert {path for _, path in client.downloads} == {"predictions.parquet", "configuration.json", "error.txt"}
    assert set(client.downloads.values()) == {1}


@pytest.mark.parametrize("gone", ["all", "winner", "other", "splits"])
def test_what_cannot_be_had_is_said_in_a_line_and_the_report_is_made(tmp_path, gone):
    made = make([1.5, 0.2, 0.4], documents=60)
    client = write(made, tmp_path)
    winner = best_trial(made)
    runs = dict(read_study(client, "made").trials[["trial", "run"]].itertuples(index=False))
    out = {"all": runs, "winner": [winner], "other": [next(trial for trial in runs if trial != winner)], "splits": []}
    for trial in out[gone]:
        (artifacts_of(client, runs[trial]) / "predictions.parquet").unlink()
    if gone == "splits":
        (tmp_path / "mlartifacts" / "study" / "splits.csv").unlink()
    text, page = report(client, "made", tmp_path)
    told = words(page)
    assert page.sections == SECTIONS
    reason = {
        "all": "the configurations' held-out predictions can't be had from MLflow",
        "winner": "no complete configuration has both a value of the objective and predictions",
        "splits": "('hilbert sync made' records them, where the sweep ran)",
    }
    if gone == "other":
        assert f"Left out, since their predictions can't be had: t{out[gone][0]:03d}." in told
        assert "of the best of 2 configurations" in told
    else:
        assert f"What to expect can't be told: {'' if gone == 'splits' else reason[gone]}" in told
        assert "Don't read them as the AUC to expect of new people." in told
        assert told.count(reason[gone]) == 3  # summary, leaderboard, by task
        assert page.tables["What the winner is worth"][0] == ["AUC", "pooled"]
        assert "behind" not in "".join(page.tables["Leaderboard"][0])
    assert ("How much calibration helps" in page.tables) == (gone in {"other", "splits"})
    assert str(tmp_path) not in text.replace(get_plotlyjs(), "")
    assert "secret" not in text.replace(get_plotlyjs(), "")


# ---- who is as good, and what was selected ---------------------------------------------------------------------------


def test_the_leaderboard_tells_how_far_behind_the_others_are(tmp_path):
    made = make([1.5, 1.4, 0.0, 0.9, 0.5], documents=120, n_splits=6, abandoned={3: [0, 2, 5]}, failed={4: [1]}, seed=3)
    page = report(write(made, tmp_path), "made", tmp_path)[1]
    winner = best_trial(made)
    mine, others = made.fold_scores(winner), [trial for trial in (0, 1, 2, 3) if trial != winner]
    differences = {
        trial: [a - b for a, b in zip(mine, made.fold_scores(trial), strict=True) if b is not None] for trial in others
    }
    p = [corrected_resampled_ttest(values, test_fraction=1 / 6).p for values in differences.values()]
    adjusted = dict(zip(others, holm(p), strict=True))
    head, *rows = page.tables["Leaderboard"]
    place = head.index("behind the\nwinner (folds)")
    assert head[place + 1] == "p, Holm"
    shown = {int(row[1][1:]): row[place : place + 2] for row in rows}
    assert shown.pop(winner) == shown.pop(4) == ["", ""]
    for trial, (difference, level) in shown.items():
        assert difference == f"{np.mean(differences[trial]):.4f}\n({len(differences[trial])})"
        assert level == (f"{adjusted[trial]:.3f}" if adjusted[trial] >= 0.001 else "< 0.001")
    assert adjusted[2] < 0.05 <= adjusted[1 - winner]
    text = words(page)
    alike = [f"t{trial:03d}" for trial in others if adjusted[trial] >= 0.05]
    assert f"Not distinguishable from t{winner:03d}: {', '.join(alike)}. Worse: " in text
    assert "Not compared: t004." in text
    assert "adjusted by Holm for 3 comparisons, at 0.05" in text


def test_what_was_selected_is_told_with_its_reasons(tmp_path):
    made = make([1.0, 0.8])
    client = write(made, tmp_path)
    winner = best_trial(made)
    assert "selected" not in words(report(client, "made", tmp_path)[1])
    record_choice(client, "made", choose(made, "best").choice)
    text = words(report(client, "made", tmp_path)[1])
    assert f"t{winner:03d} was also selected for use." in text
    assert f"t{winner:03d} was selected for use by best: rank 1 of 2 by cv/auc_mean" in text
    record_choice(client, "made", by_hand(made.study, 1 - winner, because="it is <i>mine</i>.").choice)
    text, page = report(client, "made", tmp_path)
    assert f"Selected for use is another one, t{1 - winner:03d}; the figures here are the best one's." in words(page)
    assert f"t{1 - winner:03d} was selected for use: chosen by hand, rank 2 of 2" in words(page)
    assert "it is <i>mine</i>." in words(page)
    assert "<i>mine" not in text
    runs = dict(read_study(client, "made").trials[["trial", "run"]].itertuples(index=False))
    client.delete_run(runs[1 - winner])
    assert "selected" not in words(report(client, "made", tmp_path)[1])


# ---- calibration -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    """A study whose affect is far too sure of itself, and its report."""
    made = make([1.2, 0.3], documents=150, repeats=2, group=2, seed=5)
    sharper = made.scores["affect"] ** 4
    made.scores["affect"][:] = sharper / sharper.sum(3, keepdims=True)
    folder = tmp_path_factory.mktemp("sure")
    return made, report(write(made, folder), "made", folder)[1]


def cross_fitted(made, task, trial, method):
    """[R, N, C], from the definition."""
    scores, groups = made.scores[task][trial], np.array(made.groups)
    found = np.empty_like(scores)
    for fold in range(made.folds):
        repeat, own = fold // made.n_splits, made.fold_of[fold // made.n_splits] == fold
        others = ~np.isin(groups, groups[own])
        y, p = np.tile(made.labels[task][others], made.repeats), np.concatenate(list(scores[:, others]))
        weights = np.full(len(y), 1 / made.repeats)
        found[repeat, own] = fit_calibrator(y, p, method=method, weights=weights)(scores[repeat, own])
    return found


def test_how_much_calibration_helps_is_cross_fitted(sure):
    made, page = sure
    head, *rows = page.tables["How much calibration helps"]
    assert head[:5] == ["task", "method", "Brier score", "calibration error", "log loss"]
    assert [row[0] for row in rows] == ["affect", "kind"]
    trial = best_trial(made)
    assert rows[0][1] == "temperature"
    for row, task in zip(rows, ("affect", "kind"), strict=True):
        kind, y = made.tasks[task].kind, made.labels[task]
        known = ~np.isnan(y)
        shown = [[float(number) for number in cell.split(" → ")] for cell in row[2:5]]
        stages = [made.scores[task][trial], cross_fitted(made, task, trial, row[1])]
        for stage, scores in enumerate(stages[: len(shown[0])]):
            expected = np.mean(
                [
                    [
                        brier(y[known], one[known], kind),
                        expected_calibration_error(y[known], one[known], kind),
                        log_loss(y[known], one[known], labels=range(one.shape[1])),
                    ]
                    for one in scores
                ],
                axis=0,
            )
            assert [pair[stage] for pair in shown] == pytest.approx(expected, abs=6e-5)
        assert len(shown[0]) == (1 if row[1] == "none" else 2)
    assert rows[0][4].split(" → ")[0] > rows[0][4].split(" → ")[1]
    assert "nobody has a say in their own calibration" in words(page)


def test_the_calibrated_curve_is_drawn_where_calibration_helps(sure):
    made, page = sure
    drawn = [
        figure["data"]
        for figure in page.figures
        if "predicted probability" in str(figure["layout"]["xaxis"].get("title"))
    ]
    assert len(drawn) == 1
    assert [trace.get("name") for trace in drawn[0]] == [None, "as predicted", "calibrated, cross-fitted"]
    trial = best_trial(made)
    known = ~np.isnan(made.labels["affect"])
    for trace, scores in zip(
        drawn[0][1:],
        (made.scores["affect"][trial], cross_fitted(made, "affect", trial, "temperature")),
        strict=True,
    ):
        p, y = scores[:, known, 1].ravel(), np.tile(made.labels["affect"][known], 2)
        bins = np.clip((p * 10).astype(int), 0, 9)
        assert trace["x"] == pytest.approx([p[bins == one].mean() for one in np.unique(bins)])
        assert trace["y"] == pytest.approx([y[bins == one].mean() for one in np.unique(bins)])


def test_what_has_no_labels_or_no_classes_is_not_calibrated():
    parts = of_trial(make([1.0]), 0)
    assert calibrated(parts["age"]) is None
    empty = replace(parts["affect"], labels=np.full(len(parts["affect"].labels), np.nan))
    assert calibrated(empty) is None
