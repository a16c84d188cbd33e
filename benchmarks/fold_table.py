"""The fold table of a study that was run, with its held-out predictions: for `racing.py --table`.

    hilbert sweep benchmarks/demo_cohort.yaml --set study=demo-cohort-40 --set trials=40
    python benchmarks/fold_table.py demo-cohort-40 benchmarks/demo_folds.parquet --storage benchmarks/results/studies

One row a trial, fold and held-out document: `trial`, `fold`, `repeat`, `objective` (of the whole trial), `score` (of
the fold: what racing compares by fold; missing where undefined), and for each task `label:<task>` and
`score:<task>:<class>` (of a binary task for its second class alone).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hilbert.metrics import Kind
from tune.archive import Archive
from tune.job import JobRecord
from tune.plan import make_plan
from tune.search import Search
from tune.selection import fold_score, summarise
from tune.study_file import parse_study


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="name of the study")
    parser.add_argument("output", type=Path, metavar="FILE.parquet")
    parser.add_argument("--storage", type=Path, default=Path("studies"))
    options = parser.parse_args()
    archive = Archive(options.storage / options.study)
    study = parse_study(archive.study_file(), source=str(archive.folder))
    plan = make_plan(study)
    kinds = {task: found.spec.kind for task, found in plan.labels.items()}
    parts = []
    for proposal in Search(study, archive.journal).proposals:
        records = [archive.load(job.identity) for job in plan.jobs(proposal)]
        done = [plan.counted(record) for record in records if record is not None]
        objective = summarise(done, kinds, plan.data.folds, study.objective).objective
        for record in done:
            names = {"trial": proposal.number, "fold": record.fold, "repeat": plan.data.folds[record.fold].repeat}
            values = {"objective": objective, "score": fold_score(record, study.objective)}
            parts.append(pd.DataFrame(_predictions(record, kinds)).assign(**names, **values))
    table = pd.concat(parts, ignore_index=True).sort_values(["trial", "fold"], kind="stable")
    floats = table.select_dtypes("float64").columns
    table.astype(dict.fromkeys(floats, "float32")).to_parquet(options.output, index=False, compression="zstd")


def _predictions(record: JobRecord, kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
    columns = {}
    for task, kind in kinds.items():
        columns[f"label:{task}"] = record.truth(task)
        scores = np.array(record.scores[task], dtype=np.float64)
        for number in range(1 if kind == "binary" else 0, scores.shape[1]):
            columns[f"score:{task}:{number}"] = scores[:, number]
    return columns


if __name__ == "__main__":
    main()
