"""The pictures of a trial: which there are, that they show what was computed, and that they cope with odd trials."""

import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Annotation, Text
from plot_records import SPECS, make_records

from hilbert.config import TaskConfig
from tune.plots import draw_trial, file_name, trial_figures
from tune.plots.curves import GRID, over_folds, roc, roc_figure
from tune.plots.held_out import HeldOut
from tune.plots.style import name

RECORDS = make_records()
OF_A_TRIAL = {"training", "balance", "experts", "folds", "classes"}
OF_CLASSES = {"roc", "pr", "confusion", "calibration"}


def draw(kind, records=RECORDS, specs=SPECS):
    return trial_figures(records, specs)[kind]()


def texts(figure):
    return [found.get_text() for found in figure.findobj(Text) if found.get_text()]


def is_a_sentence(figure):
    return not figure.axes and any(text.endswith(".") for text in texts(figure))


def changed(task, **values):
    """The records with other values of one task in the fields of that name."""
    return [
        replace(record, **{field: getattr(record, field) | {task: value} for field, value in values.items()})
        for record in RECORDS
    ]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_trial_has_its_pictures_and_no_other_file(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        draw_trial(RECORDS[::-1], SPECS, tmp_path)
    expected = OF_A_TRIAL | {f"{kind}_{task}" for kind in OF_CLASSES for task in ("affect", "spectrum")}
    assert {path.name for path in tmp_path.iterdir()} == {f"{one}.png" for one in expected | {"scatter_score"}}
    assert not caplog.records
    for path in tmp_path.iterdir():
        picture = imread(path)
        assert picture.shape[1] <= 900
        assert picture[..., :3].std() > 0.01  # not blank


def test_failed_and_stopped_jobs_are_not_drawn(tmp_path):
    failed = replace(RECORDS[0], error="boom", scores={}, labels={}, epochs={})
    stopped = replace(RECORDS[1], stopped=True, scores={}, labels={}, epochs={})
    found = trial_figures([failed, stopped, *RECORDS[2:]], SPECS)
    assert "2 folds" in " ".join(texts(found["training"]()))
    draw_trial([failed, stopped], SPECS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_fails_costs_no_other(tmp_path, caplog):
    broken = [replace(record, usage={task: ["?"] for task in SPECS}) for record in RECORDS]
    draw_trial(broken, SPECS, tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["the picture experts.png could not be drawn"]
    assert len(list(tmp_path.iterdir())) == len(trial_figures(RECORDS, SPECS)) - 1


@given(st.lists(st.text(min_size=1, max_size=200), min_size=2, max_size=5, unique=True))
def test_file_names_are_safe_and_tell_tasks_apart(tasks):
    found = [file_name(task) for task in tasks]
    assert len(set(found)) == len(tasks)
    for one in found:
        assert len(one) < 100
        assert one.isascii()
        assert not set(one) & set('/\\:*?"<>| \n$%#')


def test_a_plain_name_stays():
    assert file_name("age_band-2.x") == "age_band-2.x"


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_roc_panels_show_the_bands():
    held = HeldOut.of(RECORDS, "spectrum", SPECS["spectrum"])
    figure = roc_figure(held)
    assert len(figure.axes) == 3
    for column, ax in enumerate(figure.axes):
        expected = over_folds(held, column, roc)
        _, pooled, mean = sorted(ax.lines, key=lambda line: len(line.get_xdata()))
        np.testing.assert_array_equal(mean.get_xdata(), GRID)
        np.testing.assert_array_equal(mean.get_ydata(), expected.mean)
        np.testing.assert_array_equal(pooled.get_ydata(), expected.pooled.y)
        edge = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert edge.max() == pytest.approx((expected.mean + expected.deviation).clip(0, 1).max())
        assert ax.get_title(loc="left").startswith("abc"[column])


def test_the_folds_picture_shows_every_defined_auc_and_their_mean():
    records = [replace(RECORDS[0], auc=RECORDS[0].auc | {"affect": None}), *RECORDS[1:]]
    (ax,) = draw("folds", records).axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    for line, task in zip(dots, SPECS, strict=True):
        expected = [np.nan if (value := record.auc[task]) is None else value for record in records]
        np.testing.assert_array_equal(line.get_xdata(), expected)
    shown = texts(ax.figure)
    mean = np.mean([record.auc["affect"] for record in RECORDS[1:]])
    assert any(text.startswith(f"{mean:.3f} ±") and text.endswith("3 of 4 folds") for text in shown)


def test_the_experts_picture_shows_the_mean_use_of_every_task():
    (ax,) = draw("experts").axes
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(3, 4)
    np.testing.assert_allclose(heights.sum(1), 1)
    total = np.mean([[sum(usage) for usage in zip(*record.usage.values(), strict=True)] for record in RECORDS])
    assert heights.mean() * 3 == pytest.approx(total)


def test_the_scatter_shows_every_labelled_document():
    (ax,) = draw("scatter_score").axes
    (dots,) = [line for line in ax.lines if line.get_marker() == "o"]
    y, scores = HeldOut.of(RECORDS, "score", SPECS["score"]).pooled
    np.testing.assert_array_equal(dots.get_xydata(), np.column_stack([y, scores]))


# ---- where there is little or nothing to draw ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*(f"{one}_affect" for one in sorted(OF_CLASSES)), "scatter_score"])
def test_a_task_without_labels_is_a_sentence(kind):
    task = kind.split("_")[1]
    figure = draw(kind, changed(task, labels=[None] * 20, auc=None))
    assert is_a_sentence(figure)
    assert "None of 80 held-out documents has a label for this task." in texts(figure)


@pytest.mark.parametrize("kind", ["roc_affect", "pr_affect"])
def test_one_class_alone_is_a_sentence(kind):
    figure = draw(kind, changed("affect", labels=[1.0] * 20))
    assert is_a_sentence(figure)
    assert any("All 80 labelled held-out documents are of class high" in text for text in texts(figure))


def test_a_class_that_no_held_out_document_has_is_said():
    figure = draw("roc_spectrum", changed("spectrum", labels=[0.0, 1.0] * 10))
    assert "No held-out document is of this class." in texts(figure)
    assert [len(ax.lines) for ax in figure.axes] == [3, 3, 0]


def without(*starts):
    """The records without the measures that begin so."""
    return [
        replace(record, epochs={k: v for k, v in record.epochs.items() if not k.startswith(starts)})
        for record in RECORDS
    ]


def test_terms_that_are_off_have_no_panel_and_are_named():
    figure = draw("training", without("train_cka", "train_mi"))
    shown = " ".join(texts(figure))
    assert "not computed: CKA loss, Information balance" in shown
    assert len(figure.axes) == len(draw("training").axes) - 2


def test_no_inner_validation_is_said():
    figure = draw("training", without("inner"))
    assert any("no inner validation" in text for text in texts(figure))
    assert not any(ax.get_title(loc="left").startswith("Inner") for ax in figure.axes)


def test_the_balance_needs_both_bounds():
    assert is_a_sentence(draw("balance", without("train_information")))
    assert is_a_sentence(draw("balance", without("train_information_text")))
    assert [ax.get_ylabel() for ax in draw("balance").axes] == ["nats", "nats"]


def test_one_expert_and_older_records_are_sentences():
    one = [replace(record, usage={task: [1.0] for task in SPECS}) for record in RECORDS]
    assert is_a_sentence(draw("experts", one))
    assert is_a_sentence(draw("experts", [replace(record, usage={}) for record in RECORDS]))
    assert draw("experts", [replace(RECORDS[0], usage={}), *RECORDS[1:]]).axes


ENDLESS = tuple(f"class {number} of a name that goes on and on {number}" for number in range(5))
LONG = {
    "a task with $odd$ characters / and a name that has no end": TaskConfig(kind="binary", classes=("_no", "$x^$")),
    "_hidden": TaskConfig(kind="multiclass", classes=ENDLESS),
    "many": TaskConfig(kind="multiclass", classes=tuple(f"c{number}" for number in range(14))),
    "情感": TaskConfig(kind="regression"),
}
TRIALS = {
    "short": (make_records(folds=1, n=3, epochs=(1,), experts=1), SPECS),
    "two folds": (make_records(folds=2, n=60, experts=16, specs=LONG), LONG),
    "early stopping": (make_records(folds=25, n=6, epochs=(3, 30, 5, 11, 60)), SPECS),
}


def laid_out(figure):
    """Boxes in pixels of all texts that are seen, and of the titles and remarks among them."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.draw(renderer)
    outside = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    shown = [one for one in figure.findobj(Text) if one.get_text().strip() and one.get_visible()]
    boxes = {one: one.get_window_extent(renderer) for one in shown if one not in outside}
    titles = {ax.title for ax in figure.axes} | {ax._left_title for ax in figure.axes}
    return boxes, [box for one, box in boxes.items() if one in titles or isinstance(one, Annotation)]


@pytest.mark.parametrize("which", TRIALS)
def test_no_text_is_cut_off_and_no_titles_overlap(which):
    """Warnings are errors here: no layout fails, no glyph is missing, no label is hidden."""
    for kind, make in trial_figures(*TRIALS[which]).items():
        figure = make()
        boxes, titles = laid_out(figure)
        for one, box in boxes.items():
            inside = min(box.x0, box.y0) >= -2 and box.x1 <= figure.bbox.x1 + 2 and box.y1 <= figure.bbox.y1 + 2
            assert inside, (kind, one, box, figure.bbox)
        for one, other in itertools.combinations(titles, 2):
            assert not one.padded(-1).overlaps(other.padded(-1)), (kind, one, other)


def test_names_are_plain_text():
    assert name("a\n b") == "a b"
    assert name("$x$") == r"\$x\$"
    assert len(name("x" * 99)) == 32
    assert name("abcdefgh", 5) == "ab…gh"
    assert not name("_x").startswith("_")
    assert set(name("情感")) == {"□"}
