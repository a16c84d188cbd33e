"""One fit: one configuration trained on one fold.

Train on `fold.train`, choose the epoch on `fold.inner`, predict `fold.held_out`. Nothing fitted (weights,
standardisation, class weights, epoch) ever sees the held-out documents. The result depends on the data, the
configuration, the fold and the seed alone, on a GPU as far as `hilbert.repeatable` says; torch's global state is left
as it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from hilbert.batches import Features
from hilbert.config import FitConfig
from hilbert.errors import InputError, shown
from hilbert.folds import Fold, defined_folds
from hilbert.metrics import auc
from hilbert.model import Hilbert
from hilbert.prediction import check_features, check_numbers, predict
from hilbert.repeatable import repeatable
from hilbert.tasks import Labels, encode_labels
from hilbert.trainer import EpochReport, State, Trainer, TrainingError

__all__ = [
    "Checkpoint",
    "EpochReport",
    "FoldResult",
    "LabelledFeatures",
    "Trainer",
    "TrainingError",
    "fit",
    "fit_all",
]

Scores = dict[str, np.ndarray[Any, np.dtype[np.float64]]]


class LabelledFeatures(Features, Protocol):
    """A feature store: both modalities, and the documents with their labels."""

    @property
    def documents(self) -> pd.DataFrame:
        """One row a document: `document_id`, and a column for each label."""


class Checkpoint:
    """Keeps nothing. What is passed to `fit` keeps the latest state, or some of them, and gives it back."""

    def load(self) -> State | None:
        """The state to go on from; None to begin."""
        return None

    def save(self, state: Callable[[], State]) -> None:
        """Called after every epoch. Whoever asks for the state must write or copy it before returning."""


@dataclass(frozen=True)
class FoldResult:
    """What a fit found.

    Attributes:
        fold: number of the fold.
        best_epoch: epoch whose weights were kept, from 1.
        epochs: the reports of all epochs, in order.
        document_ids: the held-out documents, n of them.
        labels: for each task [n], NaN where the label is missing.
        scores: for each task [n, C]: probabilities, or for regression numbers in the label's units.
        auc: for each task the AUC of the held-out documents, None where the fold doesn't count: see
            `hilbert.folds.defined_folds`.
        untrained: tasks of which the training part lacks a class: their scores count nowhere.
        usage: for each task [E]: the mean weight of every expert over the held-out documents; [1.0] for one expert.
        seconds: wall-clock time of the fit.
        model: the trained model, on the CPU, in evaluation mode.
    """

    fold: int
    best_epoch: int
    epochs: list[EpochReport]
    document_ids: list[str]
    labels: Scores
    scores: Scores
    auc: dict[str, float | None]
    untrained: list[str]
    usage: Scores
    seconds: float
    model: Hilbert = field(repr=False)


def fit(
    config: FitConfig,
    store: LabelledFeatures,
    fold: Fold,
    *,
    report: Callable[[EpochReport], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> FoldResult:
    """Trains `config` on one fold of `store`.

    Args:
        config: the configuration.
        store: an open feature store.
        fold: which documents train, choose the epoch, and are held out. Without inner validation the last epoch counts.
        report: called after every epoch, in this process, of the second training of `refit` too. What it raises ends
            the fit.
        checkpoint: keeps the state of the training, so that a fit that was interrupted goes on with the same result.

    Raises:
        InputError: the tasks don't fit the store's documents, its files have changed since it was written, or a feature
            isn't a finite number of a plausible size; the message names document and segment.
        TrainingError: a loss became infinite or NaN.
    """
    started = time.perf_counter()
    check_features(store)
    labels = encode_labels(store.documents, config.tasks, source="the feature store's documents.csv")
    device = choose_device(config.train.device)
    with repeatable(device), _seeded(config, fold, device):
        model, epochs, best = _train_and_choose(config, store, fold, labels, device, report, checkpoint or Checkpoint())
    model = model.cpu().eval()
    outputs = predict(model, store, fold.held_out)
    scores = outputs.scores(model.config.tasks)
    truth = {task: found.values[fold.held_out] for task, found in labels.items()}
    names = [str(name) for name in store.documents["document_id"].iloc[fold.held_out]]
    for task, values in scores.items():
        check_numbers(values, names, what=f"the model predicts {task}")
    counts = {task: defined_folds(found.values, len(found.spec.classes), [fold]) for task, found in labels.items()}
    return FoldResult(
        fold=fold.index,
        best_epoch=best,
        epochs=epochs,
        document_ids=names,
        labels=truth,
        scores=scores,
        auc={
            task: auc(truth[task], scores[task], found.spec.kind) if counts[task].scored[0] else None
            for task, found in labels.items()
        },
        untrained=[task for task, found in counts.items() if not found.trained[0]],
        usage=outputs.usage(),
        seconds=time.perf_counter() - started,
        model=model,
    )


def fit_all(
    config: FitConfig,
    store: LabelledFeatures,
    *,
    epochs: int,
    stream: int = 0,
    report: Callable[[EpochReport], None] = lambda _: None,
) -> Hilbert:
    """Trains `config` on every document of `store`, as for a release: nothing is left to choose by, or to score on.

    Args:
        config: the configuration.
        store: an open feature store.
        epochs: how many of the configuration's epochs are trained; more than it has count as all.
        stream: mixed into the seed, where `fit` mixes in the fold's number.
        report: called after every epoch.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        InputError, TrainingError: as `fit`.
    """
    check_features(store)
    labels = encode_labels(store.documents, config.tasks, source="the feature store's documents.csv")
    nobody = np.empty(0, np.int64)
    everyone = Fold(np.arange(len(store.documents)), nobody, nobody, index=stream)
    device = choose_device(config.train.device)
    with repeatable(device), _seeded(config, everyone, device):
        rng = np.random.default_rng(_seeds(config, everyone))
        trainer = Trainer(config, store, everyone, labels, device, rng)
        trainer.run(report, last=min(epochs, config.train.epochs))
    return trainer.model.cpu().eval()


def _train_and_choose(
    config: FitConfig,
    store: Features,
    fold: Fold,
    labels: Mapping[str, Labels],
    device: torch.device,
    report: Callable[[EpochReport], None],
    checkpoint: Checkpoint,
) -> tuple[Hilbert, list[EpochReport], int]:
    """The trained model, the reports of all epochs, and the epoch that was chosen."""
    both = replace(fold, train=np.concatenate([fold.train, fold.inner]), inner=np.empty(0, np.int64))
    at_once = config.train.refit and not config.train.patience
    saved = checkpoint.load() or {}

    def trainer(part: Fold, stage: str) -> Trainer:
        made = Trainer(config, store, part, labels, device, np.random.default_rng(_seeds(config, fold)))
        if stage in saved:
            made.take_up(saved[stage])
        return made

    first = trainer(both if at_once else fold, "first")
    first.run(report, after_epoch=lambda: checkpoint.save(lambda: {"first": first.state()}))
    if not config.train.refit or at_once:
        return first.model, first.history, first.best_epoch
    chosen = first.state()
    second = trainer(both, "second")
    second.run(
        report,
        last=first.best_epoch,
        after_epoch=lambda: checkpoint.save(lambda: {"first": chosen, "second": second.state()}),
    )
    return second.model, first.history, first.best_epoch


@contextmanager
def _seeded(config: FitConfig, fold: Fold, device: torch.device) -> Iterator[None]:
    """Sets torch's random state for a fit, and puts it back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(_seeds(config, fold).generate_state(1, np.uint64)[0]))
        yield


def _seeds(config: FitConfig, fold: Fold) -> np.random.SeedSequence:
    return np.random.SeedSequence([config.seed, fold.index])


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"train.device: {shown(name)} can't be used here ({reason}); write auto or cpu") from None
