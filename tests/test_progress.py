"""What a person sees of a sweep, with a clock of our own."""

import io

from rich.console import Console

from hilbert.config import FitConfig
from tune.progress import SweepProgress
from tune.search import Proposal
from tune.selection import Summary


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def progress(*, terminal=False, **changes):
    clock = Clock()
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal, color_system=None)
    options = {"jobs": 40, "folds": 4, "trials": 10, "objective": "mean_auc", "workers": lambda: 2} | changes
    return SweepProgress(console=console, clock=clock, **options), clock


def proposal(number):
    return Proposal(number, {"model.experts": 4}, FitConfig(tasks={"x": "binary"}), "features", "c0ffee")


def summary(value, **changes):
    metrics = {"cv/folds_done": 4, "cv/auc_se": 0.01, "x/auc_pooled": 0.8, "cv/auc_pooled": 0.8}
    return Summary(**{"metrics": metrics, "series": {}, "failed": (), "objective": value} | changes)


def written(shown):
    return shown.console.file.getvalue()


def run_one(shown, clock, number, value, **changes):
    for _ in range(4):
        clock.now += 3
        shown.job(failed=False, fresh=True)
    shown.trial(proposal(number), summary(value, **changes))


def test_a_line_for_each_configuration_where_there_is_no_terminal():
    shown, clock = progress()
    with shown:
        run_one(shown, clock, 0, 0.71)
        run_one(shown, clock, 1, 0.9)
    first, *lines = written(shown).splitlines()
    assert first == "1/40 fold jobs, 2 at once, 1:57 left"
    assert lines[0] == "t000  mean_auc 0.7100 ± 0.0100  [1/10 trials, 4/40 fold jobs; best so far t000, 1:48 left]"
    assert lines[1] == "t001  mean_auc 0.9000 ± 0.0100  [2/10 trials, 8/40 fold jobs; best so far t001, 1:36 left]"


def test_long_configurations_are_not_waited_for_in_silence():
    shown, clock = progress(jobs=100, folds=100, trials=1)
    for _ in range(10):
        clock.now += 20
        shown.job(failed=False, fresh=True)
    assert [line.partition(" ")[0] for line in written(shown).splitlines()] == ["1/100", "4/100", "7/100", "10/100"]
    shown, clock = progress()
    for _ in range(4):
        clock.now += 100
        shown.job(failed=False, fresh=False)  # what an earlier run has done is no sign of life
    assert written(shown) == ""


def test_the_live_table_shows_the_best_first():
    shown, clock = progress(terminal=True)
    for number, value in enumerate((0.7, 0.9, 0.8)):
        run_one(shown, clock, number, value)
    shown.console.print(shown._render())
    text = written(shown)
    assert text.index("t001") < text.index("t002") < text.index("t000")
    assert "3 of 10 configurations, 2 fold jobs at once" in text
    assert "12/40" in text


def test_nothing_is_promised_from_jobs_of_earlier_runs():
    shown, _ = progress()
    shown.job(failed=False, fresh=False)
    assert shown.time_left() == ""


def test_what_the_budget_of_hours_still_buys():
    shown, clock = progress(hours=0.02)  # 72 seconds
    run_one(shown, clock, 0, 0.7)
    assert shown.time_left() == "1:00 left, enough for about 5 more configurations"


def test_racing_shortens_the_forecast():
    shown, clock = progress()
    run_one(shown, clock, 0, 0.9)
    for _ in range(2):
        clock.now += 3
        shown.job(failed=False, fresh=True)
    shown.spare(2)
    shown.trial(proposal(1), summary(0.6, abandoned=True, metrics={"cv/folds_done": 2}))
    assert "given up after 2 folds, estimated at 0.6000" in written(shown)
    assert [pair[0].number for pair in shown.best] == [0]
    assert shown.time_left() == "1:12 left"  # 8 configurations of 3 folds on average, 3 s each


def test_a_failed_configuration_is_told_and_not_among_the_best():
    shown, clock = progress()
    run_one(shown, clock, 0, None, failed=[1, 3])
    assert "failed on 2 folds" in written(shown)
    assert shown.best == []


def test_a_budget_is_not_shortened_by_what_racing_spares():
    shown, _ = progress(jobs=40, budget=7)
    assert shown.jobs == 7
    for _ in range(6):
        shown.job(failed=False, fresh=True)
    shown.spare(2)
    assert (shown.done, shown.jobs) == (6, 7)
    shown.spare(32)
    assert (shown.done, shown.jobs) == (6, 6)


def test_a_search_that_is_used_up_shortens_the_forecast():
    shown, clock = progress()
    for number in range(3):
        run_one(shown, clock, number, 0.7)
    shown.end_with(3)
    assert (shown.done, shown.jobs, shown.trials) == (12, 12, 3)
    assert shown.time_left() == "0:00 left"
