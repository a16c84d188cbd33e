"""The books of a sweep, without Ray: any number of workers, any order of arrival, any interruption."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert.config import FitConfig
from tune.job import FoldJob, JobRecord
from tune.ledger import Ledger
from tune.search import Proposal

CONFIG = FitConfig(tasks={"x": "binary"})


class Books:
    """A ledger over `trials` configurations of `folds` folds, and a log of all that it said."""

    def __init__(self, trials, folds, *, known=None):
        self.folds, self.known = folds, known or {}
        self.proposals = [Proposal(n, {}, CONFIG, "features", f"c{n}") for n in range(trials)]
        self.waiting = list(self.proposals)
        self.recorded, self.completed = [], []
        self.ledger = Ledger(
            propose=lambda: self.waiting.pop(0) if self.waiting else None,
            plan=self.plan,
            lookup=lambda job: self.known.get(job.identity),
            on_record=lambda trial, record: self.recorded.append((trial.proposal.number, record.fold)),
            on_complete=lambda trial: self.completed.append((trial.proposal.number, sorted(trial.records))),
        )

    def plan(self, proposal):
        return [FoldJob(proposal.number, f, CONFIG, "features", f"{proposal.number}-{f}") for f in range(self.folds)]


def finished(job, error=""):
    return JobRecord(identity=job.identity, fold=job.fold, started=0.0, seconds=1.0, error=error)


def drive(books, workers, seed, *, stop_after=None):
    """Hands jobs to `workers`, who finish in random order; stops after so many, leaving the others out."""
    rng, out, done = random.Random(seed), [], []
    while True:
        while len(out) < workers and (job := books.ledger.next()):
            out.append(job)
        if not out or (stop_after is not None and len(done) >= stop_after):
            return done
        job = out.pop(rng.randrange(len(out)))
        books.ledger.take(job, finished(job))
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
    books.ledger.on_complete = lambda trial: seen.append(trial.failed_folds)
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
