"""`hilbert compare` and `hilbert select`, as a user types them, and what they print."""

import io

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from contests import TASKS, make, write
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sweeps import hilbert

from hilbert.errors import InputError
from tune.choice import selected
from tune.comparison import ranking, show, show_winner, with_tests
from tune.contest import contest, pair
from tune.evidence import gather_evidence
from tune.side_by_side import bar, draw, fold_table, in_words, show_pair, two
from tune.tracking import NOTE, connect, read_study, search_runs

pytestmark = pytest.mark.timeout(400)

AFFECT = {"affect": TASKS["affect"]}
TESTS = ["winner/difference", "winner/p", "winner/p_wilcoxon", "winner/p_holm"]


def printed(function, *arguments, width=200, encoding="utf-8"):
    """What is printed on a console that is no terminal."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    function(*arguments, Console(file=file, width=width))
    file.seek(0)
    return file.read()


@pytest.fixture
def ok(here):
    """Runs a command that must work in a folder: its stdout and stderr."""

    def run(folder, *arguments):
        code, out, err = here(*arguments, folder=folder)
        assert code == 0, err
        return out, err

    return run


# ---- the winner ------------------------------------------------------------------------------------------------------


def test_the_number_to_publish_is_the_corrected_one():
    made = make([0.5, 0.6, 0.4, 0.7], abandoned={3: [0, 1]})
    text = " ".join(printed(show_winner, made).split())
    found, winner = made.bias_corrected(), contest(made).winner
    low, high = found.objective.interval
    assert f"Publish {found.objective.corrected:.4f} [{low:.4f}, {high:.4f}]" in text
    assert "best of 4 configurations" in text
    assert f"The winner, t{winner:03d}" in text
    for one in found.tasks.values():
        assert f"{one.corrected:.4f}" in text
    assert f"t{winner:03d} was picked by these very numbers, which flatters it" in text


def test_when_pooled_predictions_would_have_picked_another_it_is_said():
    sentences = set()
    for seed in range(12):
        made = make([0.5, 0.5, 0.5], seed=seed)
        winner, pooled = contest(made).winner, made.trials[made.bias_corrected().winner]
        expected = "would have picked it too" if winner == pooled else f"would have picked t{pooled:03d}"
        assert f"The mean over folds picked t{winner:03d}; pooled predictions {expected}" in printed(show_winner, made)
        sentences.add(winner == pooled)
    assert sentences == {True, False}
    assert "The mean over folds picked" not in printed(show_winner, make([0.5, 0.5], objective="pooled_auc"))


def test_a_single_configuration_needs_no_correction():
    text = printed(show_winner, make([0.5]))
    assert "nothing was picked" in text
    assert "Publish" not in text
    assert "distinguishable" not in text


def test_a_single_task_is_what_is_published():
    text = " ".join(printed(show_winner, make([0.5, 1], objective="affect")).split())
    assert "the AUC of pooled predictions of affect to expect" in text
    assert "all tasks" not in text


def test_without_a_complete_configuration_there_is_no_winner():
    assert "no winner" in printed(show_winner, make([1, 1], abandoned={0: [0], 1: [1]}))


def test_who_is_worse_is_told_from_who_is_not():
    made = make([1.5, 1.5, 0, 1.5], documents=200, n_splits=10, seed=3, failed={3: [0]})
    winner = contest(made).winner
    lines = printed(show_winner, made).splitlines()
    assert f"Not distinguishable from t{winner:03d}: t{1 - winner:03d}." in lines
    assert f"Worse than t{winner:03d}: t002." in lines
    assert "Not compared: t003." in lines


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_csv_keeps_its_columns_and_gains_tests_at_the_end(repeats):
    made = make([0.5, 0.6, 0.4, 0.7], abandoned={3: [0, 1]}, failed={2: [1]}, repeats=repeats)
    frame, found = ranking(made.study), contest(made)
    tested = with_tests(frame, found)
    assert list(tested.columns) == [*frame.columns, *TESTS]
    pd.testing.assert_frame_equal(tested[frame.columns], frame)
    rows = tested.set_index("trial")
    assert rows.loc[[found.winner, 2], TESTS].isna().all(axis=None)
    for rival in found.rivals:
        expected = [rival.difference, rival.p, rival.wilcoxon, rival.holm]
        assert rows.loc[rival.trial, TESTS].tolist() == pytest.approx(expected, nan_ok=True)
    assert with_tests(frame, None)[TESTS].isna().all(axis=None)


@pytest.mark.parametrize("objective", ["mean_auc", "age"])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_the_ranking_shows_what_there_is_room_for_and_never_cuts_it(width, objective):
    made = make([0.5, 0.6, 0.4], abandoned={2: [0, 1]}, objective=objective)
    text = printed(show, made.study, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert {"t000", "t001", "t002"} <= set(text.split())
    table = text.split("AUC: mean")[0]
    shown = [name for name in ("all tasks", *TASKS) if f" {name} " in table.splitlines()[2]]
    assert {"mean_auc": "all tasks"}.get(objective, objective) in shown
    left_out = " ".join(text.split("No room for")[-1].split()) if "No room for" in text else ""
    assert all((name in shown) != (name in left_out) for name in ("all tasks", *TASKS))


# ---- two of them -----------------------------------------------------------------------------------------------------


@given(st.floats(-1, 1), st.floats(0.5, 2), st.integers(10, 40), st.booleans())
def test_bars_are_mirrored_and_as_long_as_what_they_show(value, largest, half, ascii_only):
    width, largest = 2 * half + 1, max(largest, abs(value))
    right, left = (bar(sign * abs(value), largest, width, ascii_only=ascii_only).plain for sign in (1, -1))
    axis = "|" if ascii_only else "│"
    assert right.index(axis) == left.index(axis) == half
    assert len(left) == half + 1
    assert right[half + 1 :].replace("▌", "▐") == left[:half].strip()[::-1]
    assert abs(len(right[half + 1 :]) - half * abs(value) / largest) <= 1


@given(st.lists(st.floats(-1, 1), min_size=2), st.integers(10, 40))
def test_a_longer_bar_is_a_larger_difference(values, half):
    def length(value):
        plain = bar(value, 1, 2 * half + 1).plain
        return 2 * plain.count("█") + plain.count("▌") + plain.count("▐")

    ordered = sorted(values, key=abs)
    assert [length(value) for value in ordered] == sorted(map(length, values))
    assert length(1) == 2 * half


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize(("encoding", "axis"), [("utf-8", "│"), ("ascii", "|")])
def test_two_side_by_side_fit_the_width_with_a_line_a_fold(width, encoding, axis):
    made = make([0.5, 0.9], n_splits=5, repeats=5, abandoned={1: range(20)})
    text = printed(show_pair, pair(made, 0, 1), made, width=width, encoding=encoding)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    folds = [line.split()[0] for line in lines if axis in line and line.split()[0].isdigit()]
    assert folds == [str(fold) for fold in range(25)]
    assert sum("not run by both" in line for line in lines) == 5
    assert "Only the 20 of 25 folds that both ran are compared." in " ".join(text.split())
    assert "t001 better" in text


def test_what_two_have_in_words():
    made = make([3, 0.1], documents=200, tasks=AFFECT)
    found = pair(made, 0, 1)
    (first, *rest) = in_words(found, made)
    assert first.startswith("By mean_auc t000 is ahead of t001 by ")
    assert f"{found.objective.tested.mean:.4f}" in first
    assert "That is a difference at 0.05." in first
    assert in_words(pair(made, 1, 0), made)[0].startswith("By mean_auc t001 is behind t000 by ")
    assert any("DeLong" in line for line in rest)
    assert rest[-1].startswith("All p-values hold")
    same = make([1, 1], abandoned={0: [0], 1: [1]})
    assert in_words(pair(same, 0, 1), same) == ["t000 and t001 can be compared on 0 folds, too few for a test."]


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["1"], ["two configurations", "not 1"]),
        (["0", "1", "4"], ["two configurations", "not 3"]),
        (["1", "t001"], ["1 and t001 are one configuration"]),
        (["0", "9"], ["no configuration '9'", "t000, t001, t004"]),
        (["best", "0"], ["no configuration 'best'", "t000, t001, t004"]),
        (["2", "0"], ["t002 has failed folds", "t000, t001, t004"]),
    ],
)
def test_what_cannot_be_compared_is_said_with_what_can(texts, parts):
    made = make([1, 1, 1, 1, 1], failed={2: [0], 3: [1]}, abandoned={4: [0]})
    with pytest.raises(InputError) as caught:
        two(made, texts)
    for part in parts:
        assert part in str(caught.value)


def test_two_may_be_named_in_any_way():
    made = make([1, 1, 1])
    assert two(made, ["t002", "0"]) == (2, 0)


def test_the_fold_table_holds_every_fold():
    made = make([1, 0.5], repeats=2, abandoned={1: [0, 7]})
    found = fold_table(pair(made, 0, 1))
    assert found["fold"].tolist() == list(range(10))
    for task, values in made.fold_aucs(0).items():
        np.testing.assert_array_equal(found[f"{task}/t000"], np.array(values, dtype=float))
        difference = found[f"{task}/t000"] - found[f"{task}/t001"]
        pd.testing.assert_series_equal(found[f"{task}/difference"], difference, check_names=False)
    assert found["objective/difference"].notna().sum() <= 2


@pytest.mark.parametrize("shape", [{}, {"abandoned": {0: [0], 1: [1]}}, {"tasks": AFFECT}, {"repeats": 5}], ids=str)
def test_the_picture_is_a_png_and_replaces_the_old_one(tmp_path, shape):
    made, path = make([1, 0.5], **shape), tmp_path / "p.png"
    path.write_text("old")
    draw(pair(made, 0, 1), made, path)
    assert matplotlib.image.imread(path).shape[1] == 900
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "expected"), [("no/p.png", "no folder"), ("d.png", "is a folder"), ("p.pdf", "a PNG")]
)
def test_a_place_that_cannot_be_drawn_to_is_refused(tmp_path, name, expected):
    (tmp_path / "d.png").mkdir()
    made = make([1, 0.5])
    with pytest.raises(InputError, match=expected):
        draw(pair(made, 0, 1), made, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["d.png"]


# ---- a real sweep ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory, hashed_sweep):
    """A quick study with hashed ids, and what the command printed."""
    return hashed_sweep.copy(tmp_path_factory.mktemp("swept")), hashed_sweep


def client_of(folder):
    return connect(f"sqlite:///{folder}/mlflow.db")


def test_a_sweep_ends_with_the_ranking_and_a_hint(swept):
    _, done = swept
    assert "quick: by mean_auc" in done.stdout
    assert "Publish" not in done.stdout
    assert "What its winner is worth:  hilbert compare quick" in done.stderr


def test_the_evidence_of_a_sweep_is_what_its_fold_jobs_found(swept):
    folder, _ = swept
    client = client_of(folder)
    found = gather_evidence(client, "quick")
    assert (found.missing, found.repeats, found.folds) == ({}, 1, 3)
    assert all(len(name) == 16 for name in found.documents)
    experiment = client.get_experiment_by_name("quick").experiment_id
    jobs = search_runs(client, experiment, "tags.`hilbert.level` = 'fold'")
    assert len(jobs) == 6
    for job in jobs:
        tags = job.data.tags
        for task, values in found.fold_aucs(int(tags["hilbert.trial"])).items():
            assert values[int(tags["hilbert.fold"])] == pytest.approx(job.data.metrics.get(f"{task}/auc"), abs=1e-12)
    trials = found.study.trials.set_index("trial")
    for trial in found.trials:
        for fold, score in enumerate(found.fold_scores(trial)):
            assert score is not None, fold
        stored = found.configurations[trial]["loss"]["contrastive"]
        assert stored == pytest.approx(float(trials.at[trial, "params.loss.contrastive"]), rel=1e-4)
    corrected = found.bias_corrected()
    best = trials.loc[found.trials[corrected.winner]]
    assert corrected.objective.winner == pytest.approx(best["cv/auc_pooled"], abs=1e-4)
    assert best["cv/auc_pooled"] == trials["cv/auc_pooled"].max()


def test_compare_says_which_number_to_publish(swept, ok):
    folder, done = swept
    out, err = ok(folder, "compare", "quick")
    assert out.startswith(done.stdout.rstrip())
    expected = gather_evidence(client_of(folder), "quick").bias_corrected().objective.corrected
    assert f"Publish {expected:.4f} [" in out
    assert err == ""


def test_compare_as_csv(swept, ok):
    folder, _ = swept
    found = pd.read_csv(io.StringIO(ok(folder, "compare", "quick", "--csv")[0]))
    expected = ranking(read_study(client_of(folder), "quick"))
    assert list(found.columns) == [*expected.columns, *TESTS]
    assert found.loc[0, TESTS].isna().all()
    assert found.loc[1, TESTS].notna().all()
    assert found.loc[1, "winner/p_holm"] >= found.loc[1, "winner/p"]


def test_compare_two(swept, ok):
    folder, _ = swept
    out, err = ok(folder, "compare", "quick", "t001", "0")
    assert "By mean_auc t001 is " in out
    assert "loss.contrastive" in out
    assert err == "Picture: quick-t001-t000.png\n"
    ok(folder, "compare", "quick", "1", "0", "--output", "other.png")
    pictures = [(folder / name).read_bytes() for name in ("quick-t001-t000.png", "other.png")]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    table = pd.read_csv(io.StringIO(ok(folder, "compare", "quick", "0", "1", "--csv")[0]))
    assert table.shape == (3, 1 + 4 * 3)
    assert not (folder / "quick-t000-t001.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compare", "quick", "0", "7"], "these can be compared: t000, t001"),
        (["compare", "quick", "0", "1", "--output", "nowhere/p.png"], "there is no folder nowhere"),
        (["compare", "quick", "--output", "p.png"], "--output names the picture of two"),
        (["compare", "other", "0", "1"], "no study 'other'"),
        (["select", "quick", "--trial", "7"], "no configuration 7; complete ones are t000, t001"),
        (["select", "quick", "--because", "so"], "--because"),
        (["select", "quick", "--rule", "one-se", "--trial", "1"], "not allowed with"),
        (["select", "quick", "--rule", "worst"], "invalid choice"),
        (["select", "other"], "no study 'other'"),
    ],
)
def test_wrong_input_is_refused(swept, here, arguments, expected):
    folder, _ = swept
    before = sorted(folder.iterdir())
    code, out, err = here(*arguments, folder=folder)
    assert (code, out) == (2, "")
    assert expected in err
    assert sorted(folder.iterdir()) == before
    assert selected(client_of(folder), "quick") is None


def test_without_predictions_the_ranking_is_still_shown(tmp_path, ok):
    client = write(make([1, 0.5]), tmp_path)
    for path in tmp_path.glob("mlartifacts/*/artifacts/predictions.parquet"):
        path.unlink()
    out, err = ok(tmp_path, "compare", "made")
    assert out == printed(show, read_study(client, "made"), width=240)
    assert err.startswith("hilbert: ")
    assert len(err.splitlines()) == 1
    table = pd.read_csv(io.StringIO(ok(tmp_path, "compare", "made", "--csv")[0]))
    assert table[TESTS].isna().all(axis=None)


def note_of(folder, trial):
    (run,) = search_runs(
        client := client_of(folder),
        client.get_experiment_by_name("quick").experiment_id,
        f"tags.`hilbert.level` = 'trial' and tags.`hilbert.trial` = '{trial}'",
    )
    return run.data.tags[NOTE]


def test_a_selection_outlives_whatever_is_recorded_later(swept, ok):
    """Last: it extends the study."""
    folder, _ = swept
    out, err = ok(folder, "select", "quick", "--rule", "best")
    number = int(out.strip().removeprefix("t"))
    assert out == f"t{number:03d}\n"
    assert "rank 1 of 2" in err
    reasons = selected(client_of(folder), "quick").reasons
    assert note_of(folder, number).splitlines()[2] == f"**Selected** by `best`: {reasons}"

    out, _ = ok(folder, "select", "quick", "--trial", 1 - number, "--because", "it is small")
    assert out == f"t{1 - number:03d}\n"
    told = note_of(folder, 1 - number)
    assert told.splitlines()[2].endswith(": it is small")
    assert "**Selected**" not in note_of(folder, number)

    ok(folder, "sync", "quick", "--hash-ids")
    assert note_of(folder, 1 - number) == told
    extended = hilbert("sweep", "study.yaml", "--extend", "1", folder=folder)
    assert extended.returncode == 0, extended.stderr
    later = note_of(folder, 1 - number)
    assert later.splitlines()[1:] == told.splitlines()[1:]
    assert " of 3**" in later.splitlines()[0]
    found = selected(client_of(folder), "quick")
    assert (found.trial, found.rule) == (1 - number, "by hand")
    assert found.reasons.endswith(": it is small")
