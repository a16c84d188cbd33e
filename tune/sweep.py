"""A whole sweep: check everything, run fold jobs, tell the search, record, show.

`hilbert sweep study.yaml` and, on a cluster, `ray submit ray_cluster.yaml tune/sweep.py study.yaml` both end here.
"""

import sys
from importlib.util import find_spec

if __name__ == "__main__" and not sys.flags.safe_path:  # nothing beside this script hides what is installed
    beside = sys.path.pop(0)
    if find_spec("tune") is None:
        sys.path.append(beside)

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hilbert.errors import StudyError, shown
from tune import scheduling
from tune.archive import Archive
from tune.estimates import bounded, estimates
from tune.failures import Again, FailureGuard, SweepError, ending
from tune.job import FoldJob, JobRecord
from tune.ledger import Ledger, Listener, Racing, Trial
from tune.plan import Plan, fold_report, label_report, make_plan
from tune.privacy import packaged, placeless, without_ids
from tune.progress import SweepProgress
from tune.provenance import commit, versions
from tune.racing import RULES, Table, shortfall
from tune.recorder import RecordedStudy, Recorder
from tune.room import Room
from tune.search import Proposal, Search
from tune.selection import POOLED_AUC, fold_score, pooled_objective, summarise
from tune.space import Study
from tune.study_files import describe_data, study_note, write_study_files
from tune.terminal import console as screen
from tune.tracking import connect, tracking_uri
from tune.ui import announce, way_in
from tune.workers import new_board

SPECULATION = 3
"""Folds of a configuration that run at once, under racing, while others can be opened."""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        complete: whether all configurations have been tried, or the budget is spent; else it was interrupted.
        failed: trials with a failed fold.
        unrecorded: what MLflow refused.
        uri: where it is recorded.
        look: link to the leaderboard, or the command that opens it.
        recount: whether some folds don't count for a task, so that records of an older version may be wrong.
    """

    complete: bool
    failed: Sequence[int]
    unrecorded: Sequence[str]
    uri: str
    look: str
    recount: bool = False


class Sweep:
    """Ties ledger, search, archive, recorder and progress together; the only place that knows them all."""

    def __init__(self, plan: Plan, archive: Archive, recorder: Recorder, console: Console) -> None:
        self.plan, self.archive, self.recorder, self.console = plan, archive, recorder, console
        self.search = Search(plan.study, archive.journal)
        self.kinds = {task: found.spec.kind for task, found in plan.labels.items()}
        self.failed: list[int] = []
        self.given_up = archive.abandoned()
        self.again: Again | None = None  # what decides which failed jobs run again, where anything runs
        self.reopened: dict[int, int] = {}  # trials that had failed, and how many of their fold jobs run again
        self.objectives: dict[int, float] = {}  # of the trials that ran on every fold
        self.guard = FailureGuard()
        self.board: Any = None
        self.room: Room | None = None
        self.known: set[tuple[int, int]] = set()  # trial and fold of the fold jobs whose record lay in the archive
        self.counted: set[str] = set()  # identities of the fold jobs that progress knows
        self.fresh = False  # whether records come from jobs that ran just now
        study = plan.study
        racing = Racing(
            rule=RULES[study.racing],
            score=lambda record: fold_score(record, study.objective),
            order=plan.order,
            speculation=None if study.racing == "none" else SPECULATION,
            together=self._pooled if study.objective == POOLED_AUC else None,
        )
        self.ledger = Ledger(
            propose=self._propose,
            plan=plan.jobs,
            lookup=self._lookup,
            listener=Listener(self._on_record, self._on_close, self._on_abandon),
            racing=racing,
            retries=study.resources.retries,
            may_hand_out=self._within_budget,
        )

    def run(self) -> bool:
        """Runs what is left to do; returns whether that was everything."""
        study = self.plan.study
        self.console.print("starting Ray ...", style="dim")
        with scheduling.ray_cluster(study.resources) as room:
            room.want(self._left())
            room.wait(self._say)
            self.room, self.board = room, new_board(self.archive.checkpoints)
            with self._progress(lambda: room.known):
                self.again = Again(self.archive)
                self._replay()
                self._tell_what_runs_again()
                self.fresh = True
                scheduling.run_ledger(
                    self.ledger, self.plan.data, study.resources, room, self.board, left=self._left, say=self._say
                )
        self.failed += [number for number in self.ledger.trials if number in self.reopened]
        if self.ledger.complete:
            self.archive.forget_stop()
        return self.ledger.complete or self._budget_spent()

    def _tell_what_runs_again(self) -> None:
        if self.reopened:
            trials = ", ".join(f"t{number:03d}" for number in self.reopened)
            self._say(f"{sum(self.reopened.values())} fold jobs that failed before run again, of {trials}")

    def _say(self, words: str) -> None:
        self.console.print(words, highlight=False, markup=False, soft_wrap=True)

    def replay(self) -> None:
        """Tells search and recorder again what lies in the archive; runs nothing."""
        with self._progress(lambda: 0):
            self._replay()

    def _progress(self, workers: Callable[[], int]) -> SweepProgress:
        study = self.plan.study
        trials, folds = max(study.trials, len(self.search.proposals)), len(self.plan.data.folds)
        self.progress = SweepProgress(
            jobs=trials * folds,
            budget=study.fold_jobs,
            folds=folds,
            trials=trials,
            objective=study.objective,
            workers=workers,
            console=self.console,
            hours=study.hours,
        )
        return self.progress

    def _replay(self) -> None:
        self.ledger.open(self.search.proposals, abandoned=lambda proposal: proposal.number in self.given_up)

    def _propose(self) -> Proposal | None:
        if len(self.search.proposals) >= self.plan.study.trials:
            return None
        known = estimates(self.ledger.standings, self.objectives)
        proposal = self.search.ask(known | self.objectives)  # as they count now, whatever an older version told
        if proposal is None:
            self._say(self._used_up())
            self.progress.end_with(len(self.search.proposals))
        return proposal

    def _used_up(self) -> str:
        count, trials = len(self.search.configurations), self.plan.study.trials
        return (
            f"the search is used up: all {count} configurations that it holds have been proposed, hence no more than"
            f" these of trials: {trials}; search more values, or wider ranges, to go on"
        )

    def _left(self) -> int:
        """Fold jobs that are left, as far as one knows: those that run, that wait, and of proposals to come."""
        to_come = 0 if self.ledger.exhausted else self.plan.study.trials - len(self.search.proposals)
        return self.ledger.left + max(0, to_come) * len(self.plan.data.folds)

    def _within_budget(self) -> bool:
        return not self._budget_spent()

    def _budget_spent(self) -> bool:
        study = self.plan.study
        spent = study.fold_jobs is not None and self.progress.done + self.ledger.out >= study.fold_jobs
        return spent or (study.hours is not None and self.progress.elapsed >= 3600 * study.hours)

    def _lookup(self, job: FoldJob) -> JobRecord | None:
        told = job.trial in self.search.told
        record = self.archive.load(job.identity, failed=told, misfit=lambda found: self.plan.misfit(job, found))
        if self.again is not None and told and job.trial not in self.given_up:
            record = self._unless_it_runs_again(job, record)
        if record is not None:
            self.known.add((job.trial, job.fold))
        return None if record is None else self.plan.counted(record)  # an older version may have counted other folds

    def _unless_it_runs_again(self, job: FoldJob, record: JobRecord | None) -> JobRecord | None:
        assert self.again is not None, "asked where jobs run"
        if record is not None and record.error and self.again(record):
            self.archive.forget_failure(job.identity)  # at once: an interrupted run doesn't decide anew
            record = None
        if record is None and self.search.told[job.trial] is None:
            self.reopened[job.trial] = self.reopened.get(job.trial, 0) + 1
        return record

    def _on_record(self, trial: Trial, record: JobRecord) -> None:
        ran = self.fresh and (trial.proposal.number, record.fold) not in self.known
        if ran:
            self.archive.save(record)
        if self.room is not None:  # an earlier run knows already how much of a GPU a job takes
            self.room.packing.measured(record.gpu_memory, record.gpu_total)
        self.recorder.fold(trial.proposal, record)
        if ran or record.identity not in self.counted:
            self.progress.job(failed=bool(record.error), fresh=ran)
        else:  # it is an earlier configuration's too
            self.progress.spare(1)
        self.counted.add(record.identity)
        if ran:
            try:
                self.guard.look_at(record)
            except SweepError:
                self.archive.stop_on(ending(record.error))
                raise

    def _on_abandon(self, trial: Trial) -> None:
        self.archive.abandon(trial.proposal.number)
        if self.board is not None:
            self.board.abandon.remote(trial.proposal.number)

    def _pooled(self, records: Sequence[JobRecord]) -> float | None:
        return pooled_objective(records, self.kinds, self.plan.data.folds)

    def _estimate(self, number: int) -> float | None:
        return estimates(self.ledger.standings, self.objectives, of=[number]).get(number)

    def _told_or_estimated(self, number: int) -> float | None:
        """What the search was told of a configuration that was given up, in an earlier run or now."""
        told = self.search.told.get(number)
        return self._estimate(number) if told is None else bounded(told)

    def _on_close(self, trial: Trial) -> None:
        study, records = self.plan.study, list(trial.records.values())
        number, corrected, given_up = trial.proposal.number, None, ""
        abandoned = trial.abandoned and not trial.whole  # all its folds came in after all: it counts
        if abandoned:
            self.progress.spare(trial.folds - len(records))
            given_up = _why(number, self.ledger.standings, study.racing)
            if not trial.failed_folds:
                corrected = self._told_or_estimated(number)
        summary = summarise(records, self.kinds, self.plan.data.folds, study.objective, corrected=corrected)
        self.search.tell(number, summary.objective)
        if summary.objective is not None and not abandoned:
            self.objectives[number] = summary.objective
        self.recorder.trial(trial.proposal, records, summary, given_up=given_up)
        self.progress.trial(trial.proposal, summary)
        if summary.failed:
            self.failed.append(number)


def _why(trial: int, table: Table, rule: str) -> str:
    """Why racing gave a trial up."""
    behind = shortfall(trial, table)
    if behind is None:
        return rule
    rival, difference, folds = behind
    return f"{difference:.4f} behind t{rival:03d} on the {folds} folds that it ran ({rule})"


def run_sweep(
    study: Study, *, uri: str | None = None, hash_ids: bool = False, console: Console | None = None
) -> Outcome:
    """Runs a study, or what an interrupted run of it left to do.

    Args:
        study: the study.
        uri: the tracking server or store, see `tune.tracking.tracking_uri`.
        hash_ids: replace document ids in the prediction artifacts by keyed hashes.
        console: where progress goes; stderr by default.

    Raises:
        InputError: the study doesn't fit its data, or has changed since it began.
        SweepError: half of the first fold jobs failed alike.
    """

    def prepare(archive: Archive) -> None:
        archive.keep_versions(versions())

    return _with_archive(study, uri, hash_ids, console or screen(), Sweep.run, prepare)


def extended(study: Study, more: int) -> Study:
    """The study with `more` configurations than it has proposed by now.

    Raises:
        StudyError: `more` is not positive, or nothing has been proposed yet.
    """
    archive = Archive(Path(study.storage) / study.study)
    there = 0
    if archive.journal.exists():
        with archive.locked():
            there = len(Search(study, archive.journal).proposals)
    if more < 1 or not there:
        raise StudyError(
            f"--extend {more}: must be 1 or more, on a study that has begun; {shown(study.study)} has {there} trials"
        )
    return study.model_copy(update={"trials": there + more})


def sync_study(
    study: Study, *, uri: str | None = None, hash_ids: bool = False, console: Console | None = None
) -> Outcome:
    """Writes to MLflow whatever of a study is finished and not recorded; runs nothing. Arguments as `run_sweep`."""

    def replay(sweep: Sweep) -> bool:
        sweep.replay()
        return True

    return _with_archive(study, uri, hash_ids, console or screen(), replay)


def _with_archive(
    study: Study,
    uri: str | None,
    hash_ids: bool,
    console: Console,
    run: Callable[[Sweep], bool],
    prepare: Callable[[Archive], None] = lambda _: None,
) -> Outcome:
    def say(words: str) -> None:
        console.print(f"hilbert: {words}", highlight=False, markup=False, soft_wrap=True)

    plan = make_plan(study)
    archive = Archive(Path(study.storage) / study.study, say=say)
    uri = tracking_uri(uri, study.tracking_uri)
    client = connect(uri)
    with archive.locked():
        archive.begin(plan.description())
        archive.keep_study_file(study.model_dump(mode="json"))
        prepare(archive)
        console.print(label_report(plan), highlight=False, markup=False, soft_wrap=True)
        console.print(fold_report(plan), highlight=False, markup=False, soft_wrap=True)
        console.print(f"recording to {uri}", style="dim", highlight=False, soft_wrap=True)
        recorder = Recorder(_recorded(plan, archive, hash_ids), client)
        look = announce(recorder.client, recorder.experiment, study)
        console.print(f"leaderboard: {look}", style="dim", highlight=False, soft_wrap=True)
        if hint := way_in(uri):
            console.print(hint, style="dim", highlight=False, markup=False, soft_wrap=True)
        try:
            sweep = Sweep(plan, archive, recorder, console)
            complete = run(sweep)
        finally:
            recorder.close()
    recount = not all(found.trained.all() for found in plan.defined.values())
    return Outcome(complete, sweep.failed, recorder.errors, uri, look, recount)


def _recorded(plan: Plan, archive: Archive, hash_ids: bool) -> RecordedStudy:
    key = archive.id_key() if hash_ids or archive.has_id_key else None  # once hashed, always hashed
    identity = hashlib.sha256(json.dumps(plan.description(), sort_keys=True).encode()).hexdigest()[:24]
    study, data = plan.study, describe_data(plan, private=key is not None)
    groups = dict(zip(plan.documents, plan.groups, strict=True))
    no_ids = without_ids(groups, key) if key else None
    return RecordedStudy(
        name=study.study,
        identity=identity,
        tasks=plan.task_configs(),
        splits=plan.data.splits,
        objective=study.objective,
        folds=plan.data.folds,
        groups=groups,
        logarithmic=study.logarithmic,
        fingerprints=plan.data.fingerprints,
        commit=commit(),
        note=study_note(plan, data),
        write_files=lambda folder: write_study_files(plan, data, archive.versions(), folder, id_key=key),
        id_key=key,
        error=(lambda text: no_ids(placeless(text, known=plan.data.stores.values()))) if no_ids else packaged,
    )


if __name__ == "__main__":
    from tune.cli import main

    sys.exit(main(["sweep", *sys.argv[1:]]))
