"""What scheduling costs: the wall-clock time of a sweep beyond its training, per fold job.

    python benchmarks/scheduling.py [--jobs 200] [--workers 2] [--epochs 8]

Runs a real sweep on the demo's features (Ray, Optuna, MLflow on sqlite, records on disk), and beside it Ray Tune alone
with as many jobs that do nothing. Prints one table:

    start-up  seconds from the command's start to the first fold job's
    job       mean seconds that a fold job trained
    beyond    milliseconds a fold job, from the first one's start to the command's end, beyond the training: what is
              handed out, sent back, kept, recorded, proposed, and the waiting of idle workers
    closing   of these, what comes after the last fold job
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

FOLDS = 25
STORE = Path(__file__).parent.parent / "demo" / "speechocean"
STUDY = {
    "study": "overhead",
    "features": str(STORE),
    "tasks": {"gender": "binary", "adult": "binary", "age_band": "multiclass"},
    "objective": "pooled_auc",
    "folds": {"n_splits": FOLDS},
    "racing": "none",
    "search": {
        "loss.contrastive": {"low": 0.01, "high": 2.0, "log": True},
        "train.learning_rate": {"low": 1e-4, "high": 5e-3, "log": True},
    },
}
FLOOR = """
import sys, time, ray, ray.tune, logging
from ray.tune.search import Searcher
jobs, workers = int(sys.argv[1]), int(sys.argv[2])

class Worker(ray.tune.Trainable):
    def setup(self, config): pass
    def reset_config(self, config): return True
    def step(self): return {"time": time.time(), "done": True}

class Numbers(Searcher):
    given = 0
    def suggest(self, trial_id):
        self.given += 1
        return {"job": self.given} if self.given <= jobs else Searcher.FINISHED
    def on_trial_complete(self, trial_id, result=None, error=False):
        times.append(result["time"])
    def save(self, path): pass
    def restore(self, path): pass

times = []
ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
tune = ray.tune.TuneConfig(search_alg=Numbers(), num_samples=-1, max_concurrent_trials=workers, reuse_actors=True,
                           metric="time", mode="max")
run = ray.tune.RunConfig(verbose=0, checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
                         storage_path=sys.argv[3])
ray.tune.Tuner(Worker, tune_config=tune, run_config=run).fit()
print((max(times) - min(times)) / (jobs - 1))
"""


def sweep(options: argparse.Namespace, folder: Path) -> list[float]:
    """Start-up, seconds of a fold job, and milliseconds beyond and after them."""
    content = STUDY | {
        "trials": options.jobs // FOLDS,
        "train": {"epochs": options.epochs, "patience": 0},
        "resources": {"workers": options.workers},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "RAY_ADDRESS"))}
    begun = time.time()
    command = [sys.executable, "-m", "tune.cli", "sweep", "study.yaml"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    ended = time.time()
    records = [json.loads(path.read_text()) for path in (folder / "studies" / "overhead" / "jobs").glob("*.json")]
    assert len(records) == content["trials"] * FOLDS, "a fold job is missing"
    first, last = min(r["started"] for r in records), max(r["started"] + r["seconds"] for r in records)
    training = sum(r["seconds"] for r in records)
    beyond = (ended - first - training / options.workers) / len(records)
    return [first - begun, training / len(records), 1000 * beyond, 1000 * (ended - last) / len(records)]


def tune_alone(options: argparse.Namespace, folder: Path) -> float:
    """Milliseconds a job of Ray Tune with jobs that do nothing, with the settings that the sweep uses."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    }
    (folder / "floor.py").write_text(FLOOR, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "floor.py", str(options.jobs), str(options.workers), str(folder / "tune")],
        cwd=folder,
        env=os.environ | settings,
        check=True,
        capture_output=True,
        text=True,
    )
    return 1000 * float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hilbert-") as folder:
        floor = tune_alone(options, Path(folder))
        start, job, beyond, closing = sweep(options, Path(folder))
    print(f"{options.jobs} jobs on {options.workers} workers")
    print(f"{'':10} {'start-up s':>10} {'job s':>6} {'beyond ms':>9} {'closing ms':>10}")
    print(f"{'sweep':10} {start:10.1f} {job:6.2f} {beyond:9.1f} {closing:10.1f}")
    print(f"{'Tune alone':10} {'':10} {'':6} {floor:9.1f}")


if __name__ == "__main__":
    main()
