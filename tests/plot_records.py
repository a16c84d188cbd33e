"""Records of finished fold jobs as a sweep would leave them, without a fit: labels, scores that follow them, epochs."""

from collections.abc import Sequence

import numpy as np
from synthetic import SPECS

from hilbert.metrics import auc
from tune.job import JobRecord

__all__ = ["SPECS", "make_records"]


def make_records(
    *, folds: int = 4, n: int = 20, epochs: Sequence[int] = (6,), experts: int = 4, specs=SPECS, seed: int = 0
) -> list[JobRecord]:
    """`folds` records of `n` held-out documents, a tenth of each task's labels missing.

    Args:
        epochs: how many each fold has, over and over.
    """
    rng = np.random.default_rng(seed)
    return [_record(rng, fold, n, epochs[fold % len(epochs)], experts, specs) for fold in range(folds)]


def _record(rng, fold, n, epochs, experts, specs):
    labels, scores, aucs = {}, {}, {}
    for task, spec in specs.items():
        classes = len(spec.classes)
        y = rng.permutation(np.arange(n) % classes).astype(float) if classes else rng.normal(40, 10, n)
        score = rng.normal(size=(n, spec.outputs)).round(1)  # some are tied
        if classes:
            score[np.arange(n), y.astype(int)] += 1
            score = np.exp(score) / np.exp(score).sum(1, keepdims=True)
        else:
            score += y[:, None]
        y[rng.random(n) < 0.1] = np.nan
        labels[task] = [None if value != value else value for value in y.tolist()]
        scores[task], aucs[task] = score.tolist(), auc(y, score, spec.kind)
    return JobRecord(
        identity=f"job{fold}",
        fold=fold,
        started=0.0,
        seconds=1.0,
        best_epoch=int(rng.integers(1, epochs + 1)),
        epochs=_epochs(rng, epochs, specs),
        document_ids=[f"d{fold}-{number}" for number in range(n)],
        labels=labels,
        scores=scores,
        auc=aucs,
        usage={task: rng.dirichlet(np.ones(experts)).tolist() for task in specs},
    )


def _epochs(rng, epochs, specs):
    names = ["total", *(f"task_{task}" for task in specs), "contrastive", "cka", "mi", "moe"]
    names += ["information_audio", "information_text"]
    measures = [*(f"train_{name}" for name in names), "inner_loss", *(f"inner_{task}_auc" for task in specs)]
    found = {name: rng.random(epochs).tolist() for name in measures}
    return {"epoch": list(range(1, epochs + 1)), "seconds": [0.1] * epochs, **found}
