"""What recording costs: this recorder, Ray's own MLflow callback, and the least that MLflow can be asked for.

    python benchmarks/tracking.py [--jobs 20] [--many 2500]

A fold job of 30 epochs, five measures each. On sqlite and over HTTP to a server on this machine, in one run, the styles
in turn. Prints milliseconds per fold job:

    recorder      `tune.recorder`: a child run with 8 tags, 150 epoch values and 7 metrics in one batch, and its
                  held-out predictions as an artifact; computes the metrics and writes the file too
    its floor     the same run, batch and file, ready made: create, batch, artifacts, terminate
    floor         a run with 20 parameters, 150 epoch values, 6 metrics and 3 artifacts: create, batch, artifacts,
                  terminate
    Ray           `ray.air.integrations.mlflow.MLflowLoggerCallback` with what `floor` has, an epoch a result

Then, on sqlite, the recorder with so many fold jobs (100 configurations): the first hundred, the last, and the trials
with their notes and pictures beside them.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from hilbert.config import FitConfig, TaskConfig
from hilbert.folds import Fold
from tune import runs
from tune.entries import fold_entries
from tune.job import JobRecord
from tune.recorder import RecordedStudy, Recorder
from tune.search import Proposal
from tune.selection import summarise
from tune.tracking import connect

EPOCHS, FOLDS, DOCUMENTS = 30, 25, 20
MOST = 500
TASKS = {"task": TaskConfig(kind="binary", classes=("no", "yes"))}
MEASURES = ("train_total", "train_task", "train_contrastive", "inner_loss", "inner_task_auc")
PARAMETERS = {f"parameter_{number}": 0.1 * number for number in range(20)}


def record_of(number: int) -> JobRecord:
    """A fold job."""
    rng = np.random.default_rng(number)
    labels = np.arange(DOCUMENTS) % 2.0
    scores = rng.dirichlet([1, 1], DOCUMENTS)
    return JobRecord(
        identity=f"{number:024x}",
        fold=number % FOLDS,
        started=time.time(),
        seconds=4.0,
        best_epoch=EPOCHS,
        epochs={"epoch": list(range(1, EPOCHS + 1)), **{name: rng.random(EPOCHS).tolist() for name in MEASURES}},
        document_ids=[f"d{row}" for row in range(DOCUMENTS)],
        labels={"task": labels.tolist()},
        scores={"task": scores.tolist()},
        auc={"task": 0.5},
        usage={"task": [0.5, 0.5]},
    )


def proposal_of(trial: int) -> Proposal:
    """A configuration."""
    config = FitConfig(tasks={"task": "binary"})
    return Proposal(trial, dict(PARAMETERS), config, "features", f"{trial:012x}")


def recorder(uri: str, name: str = "recorder") -> Recorder:
    """The sweep's recorder, on a study of its own."""
    folds = [Fold(np.array([0]), np.array([1]), np.arange(2, 4), index=k, repeat=0) for k in range(FOLDS)]
    study = RecordedStudy(
        name=name,
        identity=name,
        tasks=TASKS,
        splits="0" * 12,
        objective="mean_auc",
        folds=folds,
        groups={},
        logarithmic=[],
        fingerprints={"features": "0" * 64},
        commit="0" * 12,
        note="",
        write_files=lambda folder: (folder / "study.yaml").touch(),
    )
    return Recorder(study, connect(uri))


def recording(uri: str) -> Callable[[int], None]:
    """This recorder; the trial's own run is written with its first fold job."""
    writer = recorder(uri)
    proposals, records = [proposal_of(trial) for trial in range(MOST // FOLDS)], [record_of(n) for n in range(MOST)]
    return lambda number: writer._write_fold(proposals[number // FOLDS], records[number])


def its_floor(uri: str) -> Callable[[int], None]:
    """The recorder's calls with what it computes ready made."""
    client = connect(uri)
    experiment = client.create_experiment("its-floor")
    record = record_of(0)
    entries = fold_entries(record, TASKS)
    tags = {f"tag_{number}": "x" * 12 for number in range(8)}
    folder = Path(tempfile.mkdtemp(prefix="hilbert-"))
    recorder(uri, "unused")._write_fold_files(record, folder)

    def write(_: int) -> None:
        run = runs.create_run(client, experiment, "fold", tags, started=record.started)
        runs.log_batch(client, run, entries, at=record.started)
        client.log_artifacts(run, str(folder))
        client.set_terminated(run)

    return write


def floor(uri: str) -> Callable[[int], None]:
    """The least that MLflow can be asked for with the whole stream."""
    client = connect(uri)
    experiment = client.create_experiment("floor")
    folder = artifacts()
    epochs = [(name, 0.5, epoch) for name in MEASURES for epoch in range(EPOCHS)]
    final = [(f"metric_{number}", 0.5, 0) for number in range(6)]

    def write(_: int) -> None:
        run = runs.create_run(client, experiment, "fold", {}, started=time.time())
        parameters = {name: str(value) for name, value in PARAMETERS.items()}
        runs.log_batch(client, run, [*epochs, *final], at=time.time(), parameters=parameters)
        client.log_artifacts(run, str(folder))
        client.set_terminated(run)

    return write


def ray_callback(uri: str) -> Callable[[int], None]:
    """Ray's own callback, driven as Tune drives it."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="ray", save_artifact=True)
    callback.setup()
    folder = artifacts()

    def write(number: int) -> None:
        trial = Trial(number, folder)
        callback.log_trial_start(trial)
        for epoch in range(1, EPOCHS + 1):
            final = {f"metric_{metric}": 0.5 for metric in range(6)} if epoch == EPOCHS else {}
            measures = dict.fromkeys(MEASURES, 0.5)
            callback.log_trial_result(epoch, trial, {"training_iteration": epoch, **measures, **final})
        callback.log_trial_end(trial)

    return write


class Trial(SimpleNamespace):
    """What Ray's callback asks of a trial."""

    def __init__(self, number: int, folder: Path) -> None:
        super().__init__(number=number, config=dict(PARAMETERS), local_path=str(folder))

    def __hash__(self) -> int:
        return int(self.number)

    def __str__(self) -> str:
        return f"trial_{self.number}"


def artifacts() -> Path:
    """A folder of three small files."""
    folder = Path(tempfile.mkdtemp(prefix="hilbert-"))
    for number in range(3):
        (folder / f"file_{number}.txt").write_text("x" * 4000, encoding="utf-8")
    return folder


STYLES: dict[str, Callable[[str], Callable[[int], None]]] = {
    "recorder": recording,
    "its floor": its_floor,
    "floor": floor,
    "Ray": ray_callback,
}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A tracking server on this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen([*command, *places], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{uri}/health")
        yield uri
    finally:
        process.terminate()
        process.wait()


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def compare(uri: str, jobs: int) -> dict[str, float]:
    """Median milliseconds per fold job of every style; they take turns, so that all meet the same noise."""
    writers = {name: style(uri) for name, style in STYLES.items()}
    times: dict[str, list[float]] = {name: [] for name in writers}
    for number in range(1, jobs + 2):
        for name, write in writers.items():
            begun = time.perf_counter()
            write(number)
            times[name].append(time.perf_counter() - begun)
    return {name: 1000 * float(np.median(found[1:])) for name, found in times.items()}


def many(uri: str, jobs: int) -> tuple[float, float, float]:
    """Milliseconds per fold job of the first and the last hundred, and per trial."""
    writer = recorder(uri, "many")
    kinds = {task: spec.kind for task, spec in TASKS.items()}
    folds, trials = [], []
    for trial in range(jobs // FOLDS):
        records = [replace(record_of(trial * FOLDS + fold), fold=fold) for fold in range(FOLDS)]
        for record in records:
            begun = time.perf_counter()
            writer._write_fold(proposal_of(trial), record)
            folds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        writer._write_trial(proposal_of(trial), records, summarise(records, kinds, writer.study.folds), "")
        trials.append(time.perf_counter() - begun)
    return 1000 * float(np.mean(folds[:100])), 1000 * float(np.mean(folds[-100:])), 1000 * float(np.mean(trials))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20, help=f"of every style, less than {MOST}")
    parser.add_argument("--many", type=int, default=2500, help="fold jobs; 0 leaves this part out")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hilbert-"))
    try:
        rows = {"sqlite": compare(f"sqlite:///{folder}/sqlite.db", options.jobs)}
        (folder / "server").mkdir()
        with server(folder / "server") as uri:
            rows["HTTP"] = compare(uri, options.jobs)
        print(
            f"{'ms a fold job':14} "
            + " ".join(f"{name:>10}" for name in STYLES)
            + "   Ray/recorder  recorder/its floor"
        )
        for name, row in rows.items():
            cells = " ".join(f"{row[style]:10.0f}" for style in STYLES)
            ratios = f"{row['Ray'] / row['recorder']:14.1f} {row['recorder'] / row['its floor']:19.2f}"
            print(f"{name:14} {cells} {ratios}", flush=True)
        if options.many:
            first, last, trial = many(f"sqlite:///{folder}/many.db", options.many)
            print(f"\n{options.many} fold jobs: first hundred {first:.0f} ms, last hundred {last:.0f} ms", end="")
            print(f" (ratio {last / first:.2f}); a trial with its pictures {trial:.0f} ms")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
