"""Failed fold jobs: which run again by the same command, and that they count then everywhere."""

from pathlib import Path

import pytest
from in_process import InProcess, uri, well
from sweeps import write_study

import tune.job
import tune.recorder
import tune.sweep
from hilbert.features import FeatureStore
from tune.archive import Archive
from tune.failures import SweepError, is_outside
from tune.search import Search
from tune.study_file import load_study
from tune.tracking import connect, read_study, search_runs

pytestmark = pytest.mark.timeout(120)

RAISED = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    g()\n'


@pytest.mark.parametrize(
    ("error", "outside"),
    [
        (RAISED + "FileNotFoundError: [Errno 2] No such file or directory: 'audio.npy'", True),
        (RAISED + "OSError: [Errno 28] No space left on device", True),
        (RAISED + "hilbert.errors.StoreError: features/audio.npy: missing; extract the features again", True),
        (RAISED + "ModuleNotFoundError: No module named 'hilbert.training'", True),
        (RAISED + "KeyError: 1\n\nThe above ...\n\n" + RAISED + "ConnectionResetError: [Errno 104] reset", True),
        ("the worker process died on a node that lives: out of memory, a crash of a library, or killed", True),
        ("its node was lost 4 times or more: it may be this fold job that brings nodes down", True),
        ("File x\nended after the time limit of 5 minutes (resources.minutes_per_job)", False),
        (RAISED + "torch.OutOfMemoryError: CUDA out of memory", False),
        (RAISED + "hilbert.errors.InputError: the loss is not finite", False),
        (RAISED + "RuntimeError: OSError is only mentioned", False),
    ],
)
def test_what_no_configuration_causes_is_told_from_what_one_may(error, outside):
    assert is_outside(error) is outside


# ---- whole sweeps, in this process -----------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch, tmp_path, demo_store):
    """A study of three configurations on three folds, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    FeatureStore.open(demo_store).write_part("features", range(60))
    write_study(tmp_path, features="features", tasks={"gender": "binary"}, trials=3)
    return InProcess(monkeypatch)


def statuses(level):
    client = connect(uri())
    experiment = client.get_experiment_by_name("quick").experiment_id
    return sorted(run.info.status for run in search_runs(client, experiment, f"tags.`hilbert.level` = '{level}'"))


def is_recorded_whole():
    """As a study in which nothing ever failed."""
    found = read_study(connect(uri()), "quick").trials
    assert statuses("trial") == ["FINISHED"] * 3
    assert statuses("fold") == ["FINISHED"] * 9
    assert found["failed_folds"].fillna("").eq("").all()
    assert found["cv/auc_mean"].notna().all()


def test_what_a_sweep_was_stopped_for_runs_again_by_the_same_command(here):
    def unplugged(_job):
        if Path("features/audio.npy").exists():
            Path("features/audio.npy").rename("features/away")

    with pytest.raises(SweepError, match=r"4 of the first 4 fold jobs failed alike.*same command runs them again"):
        here.sweep(unplugged)
    assert statuses("trial") == ["FAILED", "KILLED"]
    Path("features/away").rename("features/audio.npy")
    assert not here.sweep(well).failed
    assert len(here.ran) == 9
    is_recorded_whole()
    assert not here.sweep(well).failed
    assert here.ran == []


def test_half_that_failed_alike_runs_again_whatever_the_error(here):
    def no_kernel(job):
        return RuntimeError("CUDA error: no kernel image") if job.trial != 1 else None

    with pytest.raises(SweepError):
        here.sweep(no_kernel)
    archive = Archive(Path("studies/quick"))
    assert archive.has_results
    assert archive.stopped_on() == "RuntimeError: CUDA error: no kernel image"
    assert not here.sweep(well).failed
    assert len(here.ran) == 6
    is_recorded_whole()
    assert archive.stopped_on() == ""


def test_a_configuration_that_fails_by_itself_stays_failed_and_others_run_again(here):
    def faults(job):
        own, outside = ValueError("the loss is not finite"), OSError("stale file handle")
        return {(0, 1): own, (2, 0): outside}.get((job.trial, job.fold))

    assert here.sweep(faults).failed == [0, 2]
    assert statuses("trial") == ["FAILED", "FAILED", "FINISHED"]
    assert here.sweep(faults).failed == [0, 2]
    assert here.ran == [(2, 0)]
    assert statuses("fold") == ["FAILED"] * 2 + ["FINISHED"] * 7  # the same failure twice is recorded once
    assert here.sweep(well).failed == [0]
    assert here.ran == [(2, 0)]
    assert statuses("trial") == ["FAILED", "FINISHED", "FINISHED"]
    assert statuses("fold") == ["FAILED"] + ["FINISHED"] * 8
    assert tune.sweep.sync_study(load_study("study.yaml"), uri=uri()).failed == [0]
    assert statuses("trial") == ["FAILED", "FINISHED", "FINISHED"]


def test_where_nothing_ever_succeeded_everything_runs_again_and_the_search_learns_it(here):
    assert here.sweep(lambda job: ValueError(f"{job.trial} {job.fold}"), "trials=1").failed == [0]
    outcome = here.sweep(well, "trials=1", "fold_jobs=1")
    assert outcome.failed == [0]  # not all of it could run
    assert not here.sweep(well, "trials=1").failed
    assert statuses("trial") == ["FINISHED"]
    search = Search(load_study("study.yaml"), Path("studies/quick/proposals.journal"))
    assert search.told == {0: None}
    before = search.ask()
    search.tell(0, 0.75)
    assert search.mended == {0: 0.75}
    assert before in search.proposals
