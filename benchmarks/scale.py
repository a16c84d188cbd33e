"""How far a sweep scales: what its driver does for every fold job, and what it holds, while a study grows large.

    python benchmarks/scale.py [--configurations 40 1000] [--racing none] [--slots 64] [--seconds 1.5]

Whole sweeps of so many configurations on 25 folds of a made-up cohort of 500 documents: the sweep's own command with
Ray Tune, 64 worker processes, Optuna's TPE, the records on disk, and MLflow on sqlite, its pictures included. Only
training is left out: a worker waits for a job's simulated seconds and returns a record with 30 epochs of 5 measures
and drawn predictions. Each study runs in a process of its own. Prints, for every so many fold jobs of a study, in
milliseconds of processor time of the driver a fold job, so that other load on the machine doesn't count:

    proposals  Optuna, and what it is told
    books      which fold job is next, who has come in, racing
    records    the records on disk
    runs       MLflow: the fold jobs' runs
    trials     MLflow: the trials' runs, their notes and pictures
    rest       Ray Tune, and Ray
    all        these together

and the driver's memory in MiB, and how many records wait for MLflow. Then, for each study, its mean over all jobs, the
rows and the size of MLflow's database, the size of the records; and how much dearer a fold job is in the last study
than in the first.
"""

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

FOLDS, DOCUMENTS, EPOCHS = 25, 500, 30
MEASURES = ("train_total", "train_task", "train_contrastive", "inner_loss", "inner_task_auc")
TASKS = {"affect": 2, "spectrum": 4}
PARTS = ("proposals", "books", "records", "runs", "trials", "rest", "all")
STUDY = {
    "study": "scale",
    "features": "features",
    "tasks": {"affect": "binary", "spectrum": "multiclass"},
    "objective": "pooled_auc",
    "folds": {"n_splits": FOLDS},
}


# --------------------------------------------------------------------------------------------------- what is simulated


def write_store(folder: Path) -> None:
    """A cohort with next to no features: nobody looks at them."""
    import numpy as np
    import pandas as pd

    from hilbert.features import FeatureStore

    labels = {task: [f"class{row % classes}" for row in range(DOCUMENTS)] for task, classes in TASKS.items()}
    documents = pd.DataFrame({"document_id": [f"d{row:03d}" for row in range(DOCUMENTS)], **labels})
    features = [np.ones((2, 3), np.float32)] * DOCUMENTS
    FeatureStore.write(folder, documents=documents, audio=features, text=features)


def simulated_worker(cohort: dict[str, Any], seconds: float, slots: int) -> Any:
    """A Trainable in the place of `tune.workers.FoldWorker`: light, since it knows neither torch nor HILBERT.

    The first fold jobs end when all workers are up. With jobs shorter than the start of a process, Tune would give the
    jobs of those that start to those that are done, and start the others again and again.

    Args:
        cohort: `folds`: the held-out documents of each; `documents`; `labels` by task.
        seconds: mean of a fold job.
        slots: workers.
    """
    import numpy as np
    import ray.tune

    here = Path("workers").absolute()
    here.mkdir()

    class Worker(ray.tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)
            (here / str(os.getpid())).touch()
            while len(list(here.iterdir())) < slots:
                time.sleep(1)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.job = new_config["jobs"][0]
            return True

        def step(self) -> dict[str, Any]:
            job, started = self.job, time.time()
            rng = np.random.default_rng([job["trial"], job["fold"]])
            rows = cohort["folds"][job["fold"]]
            strength = 1.0 - abs(np.log(job["config"]["train"]["learning_rate"] / 1e-3)) / 3
            labels = {task: np.array([values[row] for row in rows]) for task, values in cohort["labels"].items()}
            scores = {}
            for task, classes in TASKS.items():
                logits = rng.normal(size=(len(rows), classes)) + strength * (labels[task][:, None] == range(classes))
                scores[task] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            time.sleep(float(rng.lognormal(np.log(seconds), 0.3)))
            record = {
                "identity": job["identity"],
                "fold": job["fold"],
                "started": started,
                "seconds": time.time() - started,
                "best_epoch": EPOCHS,
                "epochs": {"epoch": list(range(1, EPOCHS + 1)), **{m: rng.random(EPOCHS).tolist() for m in MEASURES}},
                "document_ids": [cohort["documents"][row] for row in rows],
                "labels": {task: values.astype(float).tolist() for task, values in labels.items()},
                "scores": {task: values.tolist() for task, values in scores.items()},
                "auc": {task: float(np.mean(values.argmax(1) == labels[task])) for task, values in scores.items()},
                "usage": {task: [0.5, 0.5] for task in TASKS},
            }
            return {"records": [zlib.compress(json.dumps(record).encode())], "done": True}

    return Worker


# --------------------------------------------------------------------------------------------------- what is measured


class Stopwatch:
    """Processor time by part: of a thread, without what a part within it takes."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inside = threading.local()

    def on(self, owner: type, method: str, part: str) -> None:
        """Measures a method from now on."""
        call = getattr(owner, method)

        @wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            outer = getattr(self.inside, "taken", None)
            self.inside.taken, begun = 0.0, time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                took = time.thread_time() - begun
                self.seconds[part] += took - self.inside.taken
                self.inside.taken = None if outer is None else outer + took

        setattr(owner, method, timed)


class Journal:
    """A row for every so many fold jobs."""

    def __init__(self, watch: Stopwatch, every: int, waiting: Callable[[], int]) -> None:
        self.watch, self.every, self.waiting = watch, every, waiting
        self.jobs, self.first, self.last = 0, Counter[str](), Counter[str]()

    def job(self) -> None:
        """One more is in; what came before the first is the start-up, whatever the study's size."""
        now, self.jobs = self._now(), self.jobs + 1
        if self.jobs == 1:
            self.first = self.last = now
        if self.jobs % self.every == 0:
            self.show(self.jobs, self.every, self.last, now)
            self.last = now

    def close(self) -> list[float]:
        """The mean over all, with what was left to write at the end."""
        return self.show("mean", self.jobs, self.first, self._now())

    def show(self, label: object, jobs: int, before: Counter[str], now: Counter[str]) -> list[float]:
        """Prints a row; returns its milliseconds a fold job."""
        parts = [1000 * (now[part] - before[part]) / jobs for part in PARTS]
        memory = int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x).split()[1])
        print(
            f"{label!s:>8}",
            *(f"{part:9.2f}" for part in parts),
            f"{memory / 1024:7.0f} {self.waiting():7d}",
            file=sys.__stdout__,  # a sweep keeps stdout for its result
            flush=True,
        )
        return parts

    def _now(self) -> Counter[str]:
        parts = Counter(self.watch.seconds)
        parts["all"] = time.process_time()
        parts["rest"] = parts["all"] - sum(self.watch.seconds.values())
        return parts


def run(options: argparse.Namespace, configurations: int) -> None:
    """One study, in the folder where this process is; leaves its figures in `figures.json`."""
    import yaml
    from racing_search import STUDY as SIMULATED
    from rich.console import Console

    from tune import scheduling
    from tune.archive import Archive
    from tune.ledger import Ledger
    from tune.plan import make_plan
    from tune.recorder import Recorder
    from tune.study_file import load_study
    from tune.sweep import Sweep, run_sweep

    resources = {"workers": options.slots}
    content = STUDY | {
        "search": SIMULATED["search"],
        "trials": configurations,
        "racing": options.racing,
        "resources": resources,
    }
    Path("study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    write_store(Path("features"))
    study = load_study("study.yaml")
    plan = make_plan(study)
    cohort = {
        "folds": [fold.held_out.tolist() for fold in plan.data.folds],
        "documents": list(plan.documents),
        "labels": {task: found.values.tolist() for task, found in plan.labels.items()},
    }
    worker = simulated_worker(cohort, options.seconds, options.slots)
    scheduling.fold_worker = lambda *_: worker  # type: ignore[assignment]

    watch = Stopwatch()
    for owner, method, part in (
        (Sweep, "_propose", "proposals"),
        (Sweep, "_on_close", "proposals"),
        (Ledger, "next", "books"),
        (Ledger, "take", "books"),
        (Archive, "save", "records"),
        (Recorder, "_write_fold", "runs"),
        (Recorder, "_write_trial", "trials"),
        (Recorder, "_write_ranks", "trials"),
    ):
        watch.on(owner, method, part)
    recorders: list[Recorder] = []
    begin = Recorder.__init__
    Recorder.__init__ = lambda self, *given: (recorders.append(self), begin(self, *given))[1]  # type: ignore[method-assign]
    journal = Journal(watch, options.every, lambda: recorders[0].waiting)
    enter = Sweep._on_record
    Sweep._on_record = lambda self, *given: (enter(self, *given), journal.job())[0]  # type: ignore[method-assign]
    begun = time.time()
    with Path("sweep.log").open("w", encoding="utf-8") as log:
        run_sweep(study, uri="sqlite:///mlflow.db", console=Console(file=log))
    parts = journal.close()
    figures = {
        "jobs": journal.jobs,
        "parts": dict(zip(PARTS, parts, strict=True)),
        "hours": (time.time() - begun) / 3600,
    }
    figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path("figures.json").write_text(json.dumps(figures), encoding="utf-8")


def weigh(folder: Path) -> dict[str, Any]:
    """Rows of MLflow's tables, and sizes in MiB."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        count = {t: database.execute(f"select count(*) from {t}").fetchone()[0] for t in ("runs", "metrics", "tags")}
    size = {"database": (folder / "mlflow.db").stat().st_size}
    for name in ("mlartifacts", "studies"):
        size[name] = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
    return {"rows": count, "MiB": {name: round(number / 2**20) for name, number in size.items()}}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, nargs="+", default=[40, 1000])
    parser.add_argument("--racing", default="none")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a simulated fold job")
    parser.add_argument("--every", type=int, default=1000, help="fold jobs a row")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run(options, options.one)
        return
    means = []
    for configurations in options.configurations:
        with tempfile.TemporaryDirectory(prefix="hilbert-") as folder:
            print(f"\n{configurations} configurations x {FOLDS} folds, {options.slots} slots, racing: {options.racing}")
            print(f"{'jobs':>8}", *(f"{part:>9}" for part in PARTS), f"{'MiB':>7} {'waiting':>7}", flush=True)
            command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--one", str(configurations)]
            hidden = ("MLFLOW", "RAY_ADDRESS")
            environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
            with Path(folder, "ray.log").open("wb") as log:  # Ray is surprised by so many processes on one machine
                done = subprocess.run(command, cwd=folder, env=environment, stderr=log, check=False)
            if done.returncode:
                sys.exit(Path(folder, "ray.log").read_text(encoding="utf-8", errors="replace"))
            figures = json.loads((Path(folder) / "figures.json").read_text())
            found = weigh(Path(folder))
            means.append(figures["parts"]["all"])
            print(f"{figures['jobs']} fold jobs in {figures['hours']:.2f} h, at most {figures['memory']:.0f} MiB")
            print("MLflow's rows:", found["rows"], "MiB:", found["MiB"])
    print(f"\na fold job of the last study / of the first: {means[-1] / means[0]:.2f}")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
