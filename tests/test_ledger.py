"""The books of a sweep, without Ray: any number of workers, any order of arrival, any interruption."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert.config import FitConfig
from tune.job import FoldJob, JobRecord
from tune.ledger import Ledger, Listener, Racing
from tune.racing import Wilcoxon
from tune.search import Proposal

CONFIG = FitConfig(tasks={"x": "binary"})


class Books:
    """A ledger over `trials` configurations of `folds` folds, and a log of all that it said."""

    def __init__(self, trials, folds, *, known=None, **options):
        self.folds, self.known = folds, known or {}
        self.proposals = [Proposal(n, {}, CONFIG, "features", f"c{n}") for n in range(trials)]
        self.waiting = list(self.proposals)
        self.recorded, self.completed, self.abandoned = [], [], []
        self.ledger = Ledger(
            propose=lambda: self.waiting.pop(0) if self.waiting else None,
            plan=self.plan,
            lookup=lambda job: self.known.get(job.identity),
            listener=Listener(
                on_record=lambda trial, record: self.recorded.append((trial.proposal.number, record.fold)),
                on_close=lambda trial: self.completed.append((trial.proposal.number, sorted(trial.records))),
                on_abandon=lambda trial: self.abandoned.append(trial.proposal.number),
            ),
            **options,
        )

    def plan(self, proposal):
        return [FoldJob(proposal.number, f, CONFIG, "features", f"{proposal.number}-{f}") for f in range(self.folds)]


def finished(job, error=""):
    return JobRecord(identity=job.identity, fold=job.fold, started=0.0, seconds=1.0, error=error)


def drive(books, workers, seed, *, stop_after=None, judge=finished):
    """Hands jobs to `workers`, who finish in random order; stops after so many, leaving the others out."""
    rng, out, done = random.Random(seed), [], []
    while True:
        while len(out) < workers and (job := books.ledger.next()):
            out.append(job)
        if not out or (stop_after is not None and len(done) >= stop_after):
            return done
        job = out.pop(rng.randrange(len(out)))
        books.ledger.take(job, judge(job))
        done.append(job)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(0, 1000))
def test_every_fold_job_runs_once_whatever_the_workers(trials, folds, workers, seed):
    books = Books(trials, folds)
    done = drive(books, workers, seed)
    everything = {(t, f) for t in range(trials) for f in range(folds)}
    assert sorted((job.trial, job.fold) for job in done) == sorted(everything)
    assert sorted(books.recorded) == sorted(everything)
    assert sorted(books.completed) == [(t, list(range(folds))) for t in range(trials)]
    assert books.ledger.finished


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 20), st.integers(0, 1000))
def test_an_interrupted_sweep_ends_as_an_uninterrupted_one(trials, folds, workers, stop_after, seed):
    first = Books(trials, folds)
    done = drive(first, workers, seed, stop_after=stop_after)
    second = Books(trials, folds, known={job.identity: finished(job) for job in done})
    opened = [p for p in first.proposals if p not in first.waiting]
    second.waiting = list(first.waiting)
    second.ledger.open(opened)
    again = drive(second, workers, seed + 1)
    assert not {job.identity for job in done} & {job.identity for job in again}
    assert len(done) + len(again) == trials * folds
    assert sorted(second.completed) == [(t, list(range(folds))) for t in range(trials)]


def test_one_worker_finishes_a_configuration_before_the_next_is_proposed():
    books = Books(3, 4)
    jobs = drive(books, 1, 0)
    assert [(job.trial, job.fold) for job in jobs] == [(t, f) for t in range(3) for f in range(4)]
    assert [number for number, _ in books.completed] == [0, 1, 2]


def test_no_worker_idles_while_there_is_work():
    books = Books(2, 3)
    assert [books.ledger.next().trial for _ in range(6)] == [0, 0, 0, 1, 1, 1]
    assert books.ledger.next() is None
    assert not books.ledger.finished


def test_a_failed_job_is_listed_and_does_not_stop_the_others():
    books = Books(1, 3)
    seen = []
    books.ledger.listener = Listener(lambda trial, record: None, lambda trial: seen.append(trial.failed_folds))
    jobs = [books.ledger.next() for _ in range(3)]
    for job in jobs:
        books.ledger.take(job, finished(job, error="boom" if job.fold == 1 else ""))
    assert seen == [[1]]


def test_a_configuration_whose_folds_are_all_known_is_complete_at_once():
    books = Books(1, 2)
    books.known = {job.identity: finished(job) for job in books.plan(books.proposals[0])}
    assert books.ledger.next() is None
    assert books.completed == [(0, [0, 1])]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, 123456.789])
def test_a_record_survives_being_written(value):
    record = replace(
        JobRecord(identity="i", fold=1, started=value, seconds=value),
        epochs={"inner_loss": [value, None]},
        scores={"x": [[value, 1 - value]]},
        labels={"x": [None, 1.0]},
        auc={"x": None},
    )
    assert JobRecord.from_json(record.to_json()) == record


def scored(job):
    """Configuration n is worse than the one before it by 0.1 on every fold; folds differ by 0.01."""
    return replace(finished(job), auc={"x": 0.9 - 0.1 * job.trial + 0.01 * job.fold})


def race(rule, folds, **options):
    return Racing(rule=rule, score=lambda record: record.auc["x"], order=range(folds), speculation=3, **options)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(0, 1000))
def test_racing_gives_up_what_is_worse_on_every_fold_and_nothing_else(workers, seed):
    books = Books(4, 20, racing=race(Wilcoxon(), 20))
    done = drive(books, workers, seed, judge=scored)
    assert set(books.abandoned) <= {1, 2, 3}
    assert (0, list(range(20))) in books.completed
    assert sorted(number for number, _ in books.completed) == [0, 1, 2, 3]
    assert len({(job.trial, job.fold) for job in done}) == len(done)
    assert books.ledger.complete
    if workers == 1:
        assert books.abandoned == [1, 2, 3]
        assert len(done) < 20 + 3 * 10


def test_without_racing_nothing_is_given_up():
    books = Books(4, 20)
    assert len(drive(books, 3, 0, judge=scored)) == 80
    assert books.abandoned == []


def test_a_job_that_was_called_off_leaves_no_record():
    books = Books(2, 20, racing=race(Wilcoxon(), 20))
    rng = random.Random(0)
    out = []
    while True:
        while len(out) < 4 and (job := books.ledger.next()):
            out.append(job)
        if not out:
            break
        job = out.pop(rng.randrange(len(out)))
        record = replace(finished(job), stopped=True) if job.trial in books.abandoned else scored(job)
        books.ledger.take(job, record)
    assert books.abandoned == [1]
    folds = dict(books.completed)[1]
    assert len(folds) == sum(trial == 1 for trial, _ in books.recorded) < 20


def test_an_abandoned_configuration_is_not_taken_up_again():
    books = Books(1, 5)
    books.known = {"0-2": scored(books.plan(books.proposals[0])[2])}
    books.waiting = []
    books.ledger.open(books.proposals, abandoned=lambda proposal: True)
    assert books.ledger.next() is None
    assert books.completed == [(0, [2])]


@given(st.integers(0, 3), st.integers(0, 3))
def test_a_failed_job_is_tried_again_as_often_as_is_said(retries, failures):
    books = Books(1, 2, retries=retries)
    left = {"0-0": failures, "0-1": 0}

    def judge(job):
        left[job.identity] -= 1
        return finished(job, error="boom" if left[job.identity] >= 0 else "")

    done = drive(books, 1, 0, judge=judge)
    assert sum(job.fold == 0 for job in done) == min(failures, retries) + 1
    assert books.recorded.count((0, 0)) == 1


def test_nothing_is_handed_out_beyond_the_budget():
    handed = []
    books = Books(3, 4, may_hand_out=lambda: len(handed) < 6)
    while job := books.ledger.next():
        handed.append(job)
        books.ledger.take(job, finished(job))
    assert len(handed) == 6
    assert books.ledger.finished
    assert not books.ledger.complete
    assert [number for number, _ in books.completed] == [0]


def test_many_workers_open_several_configurations_under_racing():
    books = Books(4, 8, racing=race(Wilcoxon(), 8))
    assert [books.ledger.next().trial for _ in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 200), st.integers(0, 40))
def test_taking_up_a_race_gives_up_nothing_that_is_whole(workers, seed, stop_after):
    first = Books(4, 12, racing=race(Wilcoxon(), 12))
    drive(first, workers, seed, stop_after=stop_after, judge=scored)
    known = {f"{number}-{fold}": scored(first.plan(first.proposals[number])[fold]) for number, fold in first.recorded}
    second = Books(4, 12, known=known, racing=race(Wilcoxon(), 12))
    second.waiting = list(first.waiting)
    opened = [p for p in first.proposals if p not in first.waiting]
    second.ledger.open(opened, abandoned=lambda proposal: proposal.number in first.abandoned)
    whole = [number for number, folds in first.completed if len(folds) == 12]
    assert not set(whole) & set(second.abandoned)
    drive(second, workers, seed + 1, judge=scored)
    assert sorted(number for number, _ in second.completed) == [0, 1, 2, 3]
    assert second.ledger.finished


def test_a_trial_that_is_given_up_while_it_is_taken_up_is_closed():
    books = Books(2, 12, racing=race(Wilcoxon(), 12))
    books.waiting = []
    books.known = {job.identity: scored(job) for job in books.plan(books.proposals[0])}
    books.known |= {job.identity: scored(job) for job in books.plan(books.proposals[1])[:8]}
    books.ledger.open(books.proposals)
    assert books.abandoned == [1]
    assert books.ledger.next() is None
    assert books.ledger.finished
