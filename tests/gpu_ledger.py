"""Fold jobs on a Ray that is told of GPUs which aren't there, with a meter that knows what such a GPU would hold.

Run as a script by `test_gpus.py`: real Tune, real workers, real fits on the processor; prints what came of it as JSON.
"""

import json
import logging
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import ray
import torch

from tune.gpu_memory import GpuMemory
from tune.ledger import Ledger, Listener
from tune.plan import make_plan
from tune.scheduling import ray_cluster, run_ledger
from tune.search import Proposal
from tune.space import Study
from tune.workers import new_board

GIB = 2**30
TOTAL = 10 * GIB


def fake_gpus(folder: str, *, says: int, holds: int):
    """A meter that says that a job takes so much, of GPUs that hold so many at once; each is a file while it runs."""

    @contextmanager
    def meter():
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        mine = Path(folder) / f"{gpu}-{os.getpid()}-{time.time_ns()}"
        mine.touch()
        try:
            beside = len(list(Path(folder).glob(f"{gpu}-*")))
            if beside > holds:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            time.sleep(0.5)
            yield lambda: GpuMemory(says, TOTAL)
            (Path(folder) / f"most {beside} {mine.name}").touch()
        finally:
            mine.unlink()

    return meter


def scenario(store: str, *, jobs: int, says: int, holds: int, seen: bool = False):
    """What came of so many fold jobs: their records and what the user was told."""
    resources = {"gpus_per_job": "auto", "cpus_per_job": 0.01, "retries": 0}
    study = Study(
        study="gpus",
        features=store,
        tasks={"adult": "binary"},
        folds={"n_splits": jobs},
        model={"width": 8, "heads": 1},
        train={"epochs": 1, "device": "cpu"},
        resources=resources,
    )
    plan, records, said = make_plan(study), [], []
    waiting = [Proposal(0, {}, study.configuration({}), "features", "c0")]
    ledger = Ledger(
        propose=lambda: waiting.pop() if waiting else None,
        plan=plan.jobs,
        lookup=lambda _: None,
        listener=Listener(on_record=lambda _, record: records.append(record), on_close=lambda _: None),
    )
    with tempfile.TemporaryDirectory() as folder, ray_cluster(study.resources) as room:
        if seen:
            room.packing.measured(says, TOTAL)
        room.wait(said.append)
        meter = fake_gpus(folder, says=says, holds=holds)
        run_ledger(
            ledger,
            plan.data,
            study.resources,
            room,
            new_board(Path(folder)),
            left=lambda: jobs,
            say=said.append,
            meter=meter,
        )
        beside = [int(path.name.split()[1]) for path in Path(folder).glob("most *")]
    return {
        "gpus": [record.gpus for record in records],
        "memory": [[record.gpu_memory, record.gpu_total] for record in records],
        "errors": [record.error for record in records],
        "said": said,
        "beside": max(beside, default=0),
    }


def main(store: str) -> None:
    """Runs all scenarios on one Ray of two GPUs."""
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    found = {
        "packs": scenario(store, jobs=11, says=2 * GIB, holds=3),
        "lowers": scenario(store, jobs=11, says=2 * GIB, holds=2),
        "too large": scenario(store, jobs=2, says=2 * GIB, holds=0),
        "seen before": scenario(store, jobs=4, says=2 * GIB, holds=3, seen=True),
    }
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
