"""What the checks of inputs cost: this checkout against another one, side by side.

    git worktree add /tmp/before COMMIT
    python benchmarks/checks.py --against /tmp/before [--rounds 7] [--sweeps 3] [--gigabytes 1]

Every measurement runs in a process of its own, first with one checkout's code and then with the other's, the order
turned round after round, on the same input. Prints the median of each in seconds, and the median of the ratios within
the rounds. Nothing else may run meanwhile.

    help         `hilbert --help`
    wav, ogg     reading 200 recordings of 30 seconds for an extraction, in stretches of five seconds; the encoder does
                 next to nothing
    mp3          the same with windows, of recordings without segment times
    open         opening the demo's feature store, a hundred times
    plan         the plan of a study on a store of a gigabyte, whose files no process has looked at before
    plan again   the same, looked at before
    fold job     one fit on the demo's features, seconds of processor time
    records      reading 1,000 records of fold jobs, as a sweep does that goes on
    predict      loading a release, and predicting the demo's 125 people
    sweep        from the command's start to the first fold job's
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import soundfile
import yaml

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "demo" / "speechocean"
TASKS = {"gender": "binary", "adult": "binary", "age_band": "multiclass"}
RATE, SECONDS, RECORDINGS = 16_000, 30, 200
GB = 1_000_000_000
LIMIT = 500
"""Seconds after which a measurement counts as hanging."""


# ---- what is measured: with nothing but what both checkouts have -----------------------------------------------------


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that something takes."""
    started = clock()
    work()
    return clock() - started


def reading(folder: Path, ending: str) -> float:
    """Seconds that an extraction takes whose encoder does nothing."""
    from hilbert.cohort import Cohort
    from hilbert.extraction import extract

    class Level:
        description, dim = {"name": "level"}, 1

        def encode(self, segments: list[np.ndarray]) -> np.ndarray:
            return np.array([[float(np.abs(one[:160]).mean())] for one in segments], np.float32)

    with tempfile.TemporaryDirectory() as beside:
        window = 5.0 if ending == "mp3" else None
        return timed(
            lambda: extract(Cohort.load(folder / ending), Path(beside) / "store", audio=Level(), window=window)
        )


def opening(_: Path) -> float:
    """Seconds that it takes to open a feature store a hundred times."""
    from hilbert.features import FeatureStore

    return timed(lambda: [FeatureStore.open(DEMO) for _ in range(100)])


def planning(folder: Path) -> float:
    """Seconds that the plan of a study on the large store takes."""
    from tune.plan import make_plan
    from tune.study_file import parse_study

    study = {"study": "large", "features": str(folder / "large"), "tasks": {"affect": "binary"}, "trials": 1}
    return timed(lambda: make_plan(parse_study(study, source="benchmark")))


def planning_anew(folder: Path) -> float:
    """The same, of a copy that nobody has seen."""
    for path in (folder / "large").iterdir():
        path.touch()
    return planning(folder)


def fitting(_: Path) -> float:
    """Seconds of processor time of one fit."""
    import torch

    from hilbert.config import FitConfig
    from hilbert.features import FeatureStore
    from hilbert.folds import make_folds
    from hilbert.tasks import encode_labels
    from hilbert.training import fit

    torch.set_num_threads(1)
    store = FeatureStore.open(DEMO)
    labels = encode_labels(store.documents, TASKS, source="demo")
    fold = make_folds(store.document_ids, labels, n_splits=5, seed=0, groups=store.groups)[0]
    config = FitConfig(tasks=TASKS, train={"epochs": 20, "patience": 0})
    fit(config, store, fold)
    return timed(lambda: fit(config, store, fold), time.process_time)


def records(folder: Path) -> float:
    """Seconds that it takes to read 1,000 records, written by the same code."""
    from tune.archive import Archive
    from tune.job import JobRecord

    rng, people = np.random.default_rng(0), 25
    there = Archive(folder / f"records-{os.getpid()}")
    with there.locked():
        for number in range(1000):
            there.save(
                JobRecord(
                    identity=f"{number:024x}",
                    fold=number % 5,
                    started=0.0,
                    seconds=1.0,
                    best_epoch=30,
                    epochs={name: rng.random(60).tolist() for name in ("train_total", "inner_loss", "train_cka")},
                    document_ids=[f"person {one}" for one in range(people)],
                    labels={task: [0.0, 1.0] * (people // 2) + [None] for task in TASKS},
                    scores={task: rng.dirichlet([1, 1], people).tolist() for task in TASKS},
                    auc=dict.fromkeys(TASKS, 0.5),
                )
            )
    try:
        return timed(lambda: [there.load(f"{number:024x}") for number in range(1000)])
    finally:
        shutil.rmtree(there.folder)


def predicting(folder: Path) -> float:
    """Seconds that loading a release and predicting with it take; the release is made by the same code."""
    import torch

    from hilbert.config import HilbertConfig, TaskConfig
    from hilbert.features import FeatureStore
    from hilbert.inference import predict
    from hilbert.model import Hilbert
    from hilbert.release import Release

    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = FeatureStore.open(DEMO)
    task = TaskConfig(kind="regression")
    model = Hilbert(HilbertConfig(audio_dim=store.audio_dim, text_dim=store.text_dim, tasks={"age": task})).eval()
    place = folder / f"release-{os.getpid()}"
    Release("voices", [model], {}, store.encoders).save(place, card="# voices\n")
    try:
        return timed(lambda: predict(place, DEMO))
    finally:
        shutil.rmtree(place)


def helping(_: Path) -> float:
    """Seconds until `hilbert --help` has answered."""
    command = [sys.executable, "-m", "tune.cli", "--help"]
    return timed(lambda: subprocess.run(command, check=True, capture_output=True, timeout=LIMIT))


def sweeping(_: Path) -> float:
    """Seconds from the start of `hilbert sweep` to that of the first fold job."""
    with tempfile.TemporaryDirectory() as beside:
        study = {"study": "first", "features": str(DEMO), "tasks": TASKS, "folds": {"n_splits": 2}, "trials": 1}
        study |= {"train": {"epochs": 1}, "resources": {"workers": 1}}
        (Path(beside) / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        started = time.time()
        command = [sys.executable, "-m", "tune.cli", "sweep", "study.yaml"]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT, cwd=beside)
        jobs = (Path(beside) / "studies" / "first" / "jobs").glob("*.json")
        return min(float(json.loads(path.read_text(encoding="utf-8"))["started"]) for path in jobs) - started


MEASURES: Mapping[str, Callable[[Path], float]] = {
    "help": helping,
    "wav": lambda folder: reading(folder, "wav"),
    "ogg": lambda folder: reading(folder, "ogg"),
    "mp3": lambda folder: reading(folder, "mp3"),
    "open": opening,
    "plan": planning_anew,
    "plan again": planning,
    "fold job": fitting,
    "records": records,
    "predict": predicting,
    "sweep": sweeping,
}


# ---- the input -------------------------------------------------------------------------------------------------------


def write_cohort(folder: Path, ending: str) -> None:
    """Recordings of a modulated tone with noise; with segment times, but for MP3."""
    (folder / "audio").mkdir(parents=True)
    rng, time_axis = np.random.default_rng(0), np.arange(SECONDS * RATE) / RATE
    names = [f"p{number:03d}" for number in range(RECORDINGS)]
    for number, name in enumerate(names):
        tone = np.sin(2 * np.pi * (100 + number) * time_axis) * np.sin(2 * np.pi * 3 * time_axis)
        wave = 0.2 * tone + 0.01 * rng.standard_normal(len(time_axis))
        soundfile.write(folder / "audio" / f"{name}.{ending}", wave.astype(np.float32), RATE)
    pd.DataFrame({"document_id": names}).to_csv(folder / "documents.csv", index=False)
    starts = range(0, SECONDS, 5) if ending != "mp3" else [None]
    rows = [
        (name, segment, f"audio/{name}.{ending}", start, None if start is None else start + 5, None)
        for name in names
        for segment, start in enumerate(starts)
    ]
    table = pd.DataFrame(rows, columns=["document_id", "segment", "audio", "start", "end", "text"])
    table.to_csv(folder / "segments.csv", index=False)


def write_store(folder: Path, gigabytes: float) -> None:
    """A feature store of about so many gigabytes."""
    from hilbert.features import FeatureStore

    rng, people, dims = np.random.default_rng(0), 500, 768
    segments = max(1, round(gigabytes * GB / (people * 2 * dims * 4)))
    table = pd.DataFrame({"document_id": [f"p{n:03d}" for n in range(people)], "affect": ["low", "high"] * 250})
    features = [rng.standard_normal((segments, dims), dtype=np.float32) for _ in range(people)]
    FeatureStore.write(folder, documents=table, audio=features, text=features)


# ---- side by side ----------------------------------------------------------------------------------------------------


def measured(name: str, checkout: Path, folder: Path) -> float:
    """One measurement in a process of its own, with a checkout's code."""
    given = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HILBERT_CACHE": str(folder / "cache")}
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, env=given, check=True, capture_output=True, text=True, timeout=LIMIT, cwd=folder)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sweeps", type=int, default=3, help="rounds of `sweep`")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the large store")
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(MEASURES[options.measure](options.folder))
        return
    if options.against is None:
        parser.error("--against names the checkout to compare with")
    with tempfile.TemporaryDirectory(prefix="hilbert-checks-") as beside:
        folder = Path(beside)
        for ending in {"wav", "ogg", "mp3"} & set(options.only):
            write_cohort(folder / ending, ending)
        if {"plan", "plan again"} & set(options.only):
            write_store(folder / "large", options.gigabytes)
        print("| | before | now | now / before |\n|---|---|---|---|")
        for name in options.only:
            found: dict[Path, list[float]] = {options.against.absolute(): [], ROOT: []}
            for turn in range(options.sweeps if name == "sweep" else options.rounds):
                for checkout in list(found)[:: 1 if turn % 2 else -1]:
                    found[checkout].append(measured(name, checkout, folder))
            before, now = found.values()
            ratio = median(b / a for a, b in zip(before, now, strict=True))
            print(f"| {name} | {median(before):.3g} s | {median(now):.3g} s | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
