"""What HILBERT reaches on the demo's real speech, beside what users would try first.

    python benchmarks/demo_cohort.py [--seeds 0 1 2] [--trials 20]

For every seed: a sweep of 20 configurations over 25 folds (seed of the folds, of the search and of the fits), and on
the same folds logistic regression on each document's means and deviations of audio, text, and both. Prints the AUC of
the pooled held-out predictions; the winner is picked on the same predictions, so that its numbers are a little too
good (see `cv/auc_pooled` of the other configurations). An interrupted run goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hilbert.features import FeatureStore
from hilbert.metrics import pooled_auc
from tune.comparison import ranking
from tune.plan import Plan, make_plan
from tune.study_file import load_study
from tune.sweep import run_sweep
from tune.tracking import connect, read_study

STUDY = Path(__file__).with_suffix(".yaml")


def pooled_features(store: FeatureStore, modalities: tuple[str, ...]) -> np.ndarray:
    """Mean and deviation over a document's segments: [N, 2 D]."""
    columns = []
    for name in modalities:
        part = getattr(store, name)
        columns += [[part[i].mean(0) for i in range(len(part))], [part[i].std(0) for i in range(len(part))]]
    return np.concatenate([np.array(column, dtype=np.float64) for column in columns], axis=1)


def logistic_regression(plan: Plan, modalities: tuple[str, ...]) -> dict[str, float]:
    """Pooled AUC of each task, trained on all documents that are not held out."""
    features = pooled_features(FeatureStore.open(next(iter(plan.data.stores.values()))), modalities)
    found = {}
    for task, labels in plan.labels.items():
        truth, scores = [], []
        for fold in plan.data.folds:
            train = np.concatenate([fold.train, fold.inner])
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
            model.fit(features[train], labels.values[train])
            truth.append(labels.values[fold.held_out])
            scores.append(model.predict_proba(features[fold.held_out]))
        found[task] = pooled_auc(truth, scores, labels.spec.kind) or np.nan
    return found


def main() -> None:
    """Runs the sweeps and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        overrides = [f"study=demo-cohort-{seed}", f"seed={seed}", f"folds.seed={seed}", f"trials={options.trials}"]
        study = load_study(STUDY, overrides)
        plan = make_plan(study)
        for name, modalities in {"audio": ("audio",), "text": ("text",), "both": ("audio", "text")}.items():
            rows.append(
                {"seed": seed, "model": f"logistic regression, {name}", **logistic_regression(plan, modalities)}
            )
        outcome = run_sweep(study)
        trials = ranking(read_study(connect(outcome.uri), study.study))
        for label, trial in (("HILBERT, best", trials.iloc[0]), ("HILBERT, median", trials.iloc[len(trials) // 2])):
            aucs = {task: trial[f"{task}/auc_pooled"] for task in plan.labels}
            values = {
                name.removeprefix("params."): trial[name] for name in trials.columns if name.startswith("params.")
            }
            rows.append({"seed": seed, "model": f"{label} (t{trial['trial']:03d})", **aucs, **values})
        print(pd.DataFrame(rows).to_string(index=False, float_format="%.4f", na_rep=""), file=sys.stderr)
    print(pd.DataFrame(rows).to_csv(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
