"""The recorder, with requests that get lost, are answered unheard, or are the last that the driver makes.

The MLflow store is real; between it and the recorder stands a client that spoils one request.
"""

import pytest
from spoiled import Killed, Spoiled, database

import tune.recorder
from hilbert.config import FitConfig, TaskConfig
from hilbert.errors import HilbertError
from hilbert.folds import Fold
from tune.job import JobRecord
from tune.recorder import RecordedStudy, Recorder
from tune.search import Proposal
from tune.selection import Summary
from tune.tracking import connect, search_runs

pytestmark = pytest.mark.timeout(300)

TASKS = {"x": TaskConfig(kind="binary", classes=("no", "yes"))}
STUDY = RecordedStudy(
    name="s",
    identity="id",
    tasks=TASKS,
    splits="0" * 12,
    objective="mean_auc",
    folds=[Fold([0], [1], [2, 3], index=0, repeat=0)],
    groups={},
    logarithmic=[],
    fingerprints={"f": "1" * 64},
    commit=None,
    note="a study",
    write_files=lambda folder: (folder / "study.yaml").write_text("study: s"),
)
PROPOSAL = Proposal(0, {"loss.cka": 0.5}, FitConfig(tasks={"x": "binary"}), "f", "abcdef123456")
RECORD = JobRecord(
    identity="j0",
    fold=0,
    started=1.0,
    seconds=2.0,
    best_epoch=1,
    epochs={"epoch": [1.0, 2.0], "train_total": [0.5, 0.4]},
    document_ids=["a", "b", "c", "d"],
    labels={"x": [0.0, 1.0, 0.0, 1.0]},
    scores={"x": [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]]},
    auc={"x": 0.75},
)
SUMMARY = Summary({"cv/auc_mean": 0.7, "cost/seconds": 2.0}, {"fold/auc": {0: 0.7}}, [], 0.7)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(tune.recorder, "RETRY_AFTER", (0.001,))
    monkeypatch.setattr(tune.recorder, "draw_trial", lambda _records, _tasks, folder: (folder / "a.png").touch())


def drive(client):
    """Records the whole study, as the sweep does."""
    recorder = Recorder(STUDY, client)
    recorder.fold(PROPOSAL, RECORD)
    recorder.trial(PROPOSAL, [RECORD], SUMMARY)
    recorder.close()
    return recorder


class WithoutThread(Recorder):
    """Writes only when it is told to, in the thread that tells it."""

    def _work(self):
        return


def drive_in_this_thread(client):
    """The same until the driver is killed."""
    recorder = WithoutThread(STUDY, client)
    recorder._write_study()
    recorder._write_fold(PROPOSAL, RECORD)
    recorder._write_trial(PROPOSAL, [RECORD], SUMMARY, "")
    recorder._write_ranks()
    return recorder


def recorded(uri):
    client = connect(uri)
    experiment = client.get_experiment_by_name("s").experiment_id
    return sorted(
        (
            run.data.tags["hilbert.level"],
            run.info.status,
            sorted(run.data.params.items()),
            sorted(run.data.metrics.items()),
            sorted(file.path for file in client.list_artifacts(run.info.run_id)),
            [
                (point.step, point.value)
                for name in ("fold/auc", "epoch/train_total")
                for point in client.get_metric_history(run.info.run_id, name)
            ],
            run.data.tags.get("mlflow.note.content"),
            len(run.inputs.dataset_inputs),
        )
        for run in search_runs(client, experiment, "")
    )


@pytest.fixture
def whole(tmp_path):
    """What is recorded when nothing goes wrong, and how many requests that takes."""
    uri = database(tmp_path / "whole")
    client = Spoiled(connect(uri), 10**9, heard=True, deadly=False)
    assert drive(client).errors == []
    return recorded(uri), client.requests


@pytest.mark.parametrize("heard", [False, True], ids=["lost", "unheard"])
@pytest.mark.parametrize("deadly", [False, True], ids=["retried", "killed"])
def test_a_request_that_goes_wrong_leaves_no_trace(tmp_path, whole, heard, deadly):
    expected, requests = whole
    assert [run[:2] for run in expected] == [("fold", "FINISHED"), ("trial", "FINISHED")]
    for number in range(1, requests + 1):
        uri = database(tmp_path / str(number))
        spoiled = Spoiled(connect(uri), number, heard=heard, deadly=deadly)
        try:
            again = bool((drive_in_this_thread if deadly else drive)(spoiled).errors)
        except (Killed, HilbertError):  # lost at the very start: the sweep says so and ends
            again = True
        if again:
            assert drive(connect(uri)).errors == []
        assert recorded(uri) == expected, number


def test_a_record_given_twice_is_written_once(tmp_path, whole):
    uri = database(tmp_path / "twice")
    drive(connect(uri))
    drive(connect(uri))
    assert recorded(uri) == whole[0]


def test_ranks_in_the_notes_follow_the_study(tmp_path):
    uri = database(tmp_path / "ranks")
    recorder = Recorder(STUDY, connect(uri))
    for number, value in enumerate([0.6, 0.8, 0.7]):
        proposal = Proposal(number, {"loss.cka": value}, PROPOSAL.config, "f", f"{number}" * 12)
        summary = Summary({"cv/auc_mean": value, "cost/seconds": 1.0}, {}, [], value)
        recorder.trial(proposal, [RECORD], summary)
    recorder.close()
    notes = {run[2][0][1]: run[6].splitlines()[0] for run in recorded(uri) if run[0] == "trial"}
    assert notes == {
        "0.6": "**Rank 3 of 3** by `cv/auc_mean`, 0.6000.",
        "0.7": "**Rank 2 of 3** by `cv/auc_mean`, 0.7000.",
        "0.8": "**Rank 1 of 3** by `cv/auc_mean`, 0.8000.",
    }
