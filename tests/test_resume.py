"""A search over folds that is killed anywhere and taken up again ends as if it had not been: with one worker, raced.

The books, the search, its journal and the estimates are the sweep's own; a training is a draw.
"""

import numpy as np
import pytest

from tune.estimates import estimates
from tune.job import FoldJob, JobRecord
from tune.ledger import Ledger, Listener, Racing
from tune.racing import RULES, fold_order
from tune.search import Search
from tune.selection import fold_score
from tune.study_file import parse_study
from tune.sweep import SPECULATION

FOLDS = 10
STUDY = {
    "study": "s",
    "features": "f",
    "tasks": {"x": "binary"},
    "trials": 16,
    "seed": 5,
    "search": {
        "loss.contrastive": {"low": 0.01, "high": 2.0, "log": True},
        "loss.cka": {"low": 0.0, "high": 1.0},
        "model.experts": {"choices": [1, 2, 4]},
    },
}


def score(proposal, fold):
    noise = np.random.default_rng([int(proposal.configuration, 16), fold]).standard_normal()
    return 0.7 - 0.3 * (proposal.parameters["loss.cka"] - 0.4) ** 2 + 0.02 * noise + 0.01 * fold


class Process:
    """One process of a sweep with one worker: what it leaves is the journal, the records and what was given up."""

    def __init__(self, rule, journal, records, abandoned):
        self.study = parse_study(STUDY, source="s")
        self.search, self.records, self.abandoned = Search(self.study, journal), records, abandoned
        self.order, self.objectives = fold_order(FOLDS, seed=1), {}
        self.ledger = Ledger(
            propose=self.propose,
            plan=self.jobs,
            lookup=lambda job: self.records.get(job.identity),
            listener=Listener(lambda *_: None, self.close, lambda trial: self.abandoned.add(trial.proposal.number)),
            racing=Racing(RULES[rule], lambda record: fold_score(record, "x"), self.order, SPECULATION),
        )
        self.ledger.open(self.search.proposals, abandoned=lambda proposal: proposal.number in self.abandoned)

    def propose(self):
        if len(self.search.proposals) >= self.study.trials:
            return None
        return self.search.ask(estimates(self.ledger.standings, self.objectives))

    def jobs(self, proposal):
        number = proposal.number
        return [FoldJob(number, fold, proposal.config, proposal.store, f"{number}-{fold}") for fold in self.order]

    def close(self, trial):
        number = trial.proposal.number
        if trial.whole:
            self.objectives[number] = self.ledger.standings[number].mean
            self.search.tell(number, self.objectives[number])
        else:
            self.search.tell(number, estimates(self.ledger.standings, self.objectives)[number])

    def run(self, jobs=None):
        """Runs so many jobs, or all; the last one's result is lost with the process."""
        count = 0
        while (job := self.ledger.next()) is not None:
            count += 1
            if count == jobs:
                return
            value = score(self.search.proposals[job.trial], job.fold)
            self.records[job.identity] = record = JobRecord(job.identity, job.fold, 0, 0, auc={"x": value})
            self.ledger.take(job, record)


def outcome(process):
    return process.search.proposals, process.records.keys(), process.abandoned


@pytest.mark.parametrize("rule", list(RULES))
def test_a_raced_search_that_was_killed_goes_on_to_the_same_end(tmp_path, rule):
    whole = Process(rule, tmp_path / "whole", {}, set())
    whole.run()
    assert len(whole.search.proposals) == 16
    assert len(whole.records) < 160 or rule == "none"
    for seed in range(4):
        journal, records, abandoned = tmp_path / str(seed), {}, set()
        for jobs in np.random.default_rng(seed).integers(1, 30, 4):
            Process(rule, journal, records, abandoned).run(int(jobs))
        last = Process(rule, journal, records, abandoned)
        last.run()
        assert outcome(last) == outcome(whole)
