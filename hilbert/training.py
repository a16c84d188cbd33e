"""One fit: one configuration trained on one fold.

Train on `fold.train`, choose the epoch on `fold.inner`, predict `fold.held_out`. Nothing fitted (weights,
standardisation, class weights, epoch) ever sees the held-out documents. The result depends on the data, the
configuration, the fold and the seed alone; torch's global random state is left as it was.
"""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from hilbert.batches import Batch, Features, IntArray, make_batch, modality, moments
from hilbert.class_weights import class_weighting
from hilbert.config import FitConfig, HilbertConfig, TaskConfig, TrainConfig
from hilbert.errors import HilbertError, InputError
from hilbert.folds import Fold
from hilbert.metrics import auc
from hilbert.model import Hilbert
from hilbert.objective import Objective, Terms
from hilbert.prediction import predict_logits, predict_scores, to_scores
from hilbert.tasks import Labels, encode_labels

Scores = dict[str, np.ndarray[Any, np.dtype[np.float64]]]
EpochReport = dict[str, float]
"""Of one epoch: `epoch`, `seconds`, `learning_rate`, `temperature` if it is learned; `train_<term>` and
`train_weighted_<term>` for every loss term, and `train_total`; `inner_loss`, and `inner_<task>_auc` where defined."""


class TrainingError(HilbertError):
    """Training can't go on: the loss is no longer a number."""


class LabelledFeatures(Features, Protocol):
    """A feature store: both modalities, and the documents with their labels."""

    @property
    def documents(self) -> pd.DataFrame:
        """One row a document: `document_id`, and a column for each label."""


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
        auc: for each task the AUC of the held-out documents, None where it is undefined.
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
    seconds: float
    model: Hilbert = field(repr=False)


def fit(
    config: FitConfig,
    store: LabelledFeatures,
    fold: Fold,
    *,
    report: Callable[[EpochReport], None] = lambda _: None,
) -> FoldResult:
    """Trains `config` on one fold of `store`.

    Args:
        config: the configuration.
        store: an open feature store.
        fold: which documents train, choose the epoch, and are held out. Without inner validation the last epoch counts.
        report: called after every epoch, in this process.

    Raises:
        InputError: the tasks don't fit the store's documents.
        TrainingError: a loss became infinite or NaN.
    """
    started = time.perf_counter()
    labels = encode_labels(store.documents, config.tasks, source="the feature store's documents.csv")
    device = choose_device(config.train.device)
    seeds = np.random.SeedSequence([config.seed, fold.index])
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        model, epochs, best = _train_and_choose(config, store, fold, labels, device, seeds, report)
    model = model.cpu().eval()
    scores = predict_scores(model, store, fold.held_out)
    truth = {task: found.values[fold.held_out] for task, found in labels.items()}
    return FoldResult(
        fold=fold.index,
        best_epoch=best,
        epochs=epochs,
        document_ids=[str(name) for name in store.documents["document_id"].iloc[fold.held_out]],
        labels=truth,
        scores=scores,
        auc={task: auc(truth[task], scores[task], found.spec.kind) for task, found in labels.items()},
        seconds=time.perf_counter() - started,
        model=model,
    )


def _train_and_choose(
    config: FitConfig,
    store: Features,
    fold: Fold,
    labels: Mapping[str, Labels],
    device: torch.device,
    seeds: np.random.SeedSequence,
    report: Callable[[EpochReport], None],
) -> tuple[Hilbert, list[EpochReport], int]:
    """The trained model, the reports of all epochs, and the epoch that was chosen."""
    both = replace(fold, train=np.concatenate([fold.train, fold.inner]), inner=np.empty(0, np.int64))
    at_once = config.train.refit and not config.train.patience
    trainer = Trainer(config, store, both if at_once else fold, labels, device, np.random.default_rng(seeds))
    epochs, best = trainer.run(report)
    if config.train.refit and not at_once:
        trainer = Trainer(config, store, both, labels, device, np.random.default_rng(seeds))
        trainer.run(lambda _: None, last=best)
    return trainer.model, epochs, best


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"train.device: {name!r} can't be used here ({reason}); write auto or cpu") from None


def new_model(config: FitConfig, store: Features, labels: Mapping[str, Labels], train: IntArray) -> Hilbert:
    """An untrained model, whose standardisation is fitted on the documents `train`."""
    audio, text = modality(store, "audio"), modality(store, "text")
    tasks = {task: _task_config(found, train) for task, found in labels.items()}
    model = Hilbert(
        HilbertConfig(
            model=config.model,
            audio_dim=audio.values.shape[1],
            text_dim=text.values.shape[1],
            tasks=tasks,
            clip_features=config.train.clip_features,
        )
    )
    model.audio_encoder.standardise.fit(*moments(audio, train))
    model.text_encoder.standardise.fit(*moments(text, train))
    return model


def _task_config(labels: Labels, train: IntArray) -> TaskConfig:
    if labels.spec.kind != "regression":
        return TaskConfig(kind=labels.spec.kind, classes=labels.spec.classes)
    known = labels.values[train][~np.isnan(labels.values[train])]
    varies = len(np.unique(known)) > 1
    mean, deviation = float(known.mean()) if len(known) else 0.0, float(known.std()) if varies else 1.0
    return TaskConfig(kind="regression", mean=mean, deviation=deviation)


class Trainer:
    """The epoch loop over one fold."""

    def __init__(
        self,
        config: FitConfig,
        store: Features,
        fold: Fold,
        labels: Mapping[str, Labels],
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self.config, self.store, self.fold, self.device, self.rng = config, store, fold, device, rng
        self.labels = {task: found.values for task, found in labels.items()}
        self.model = new_model(config, store, labels, fold.train).to(device)
        weighting = {
            task: class_weighting(_class_counts(found, fold.train), config.loss.class_weighting)
            for task, found in labels.items()
            if found.spec.kind != "regression"
        }
        self.objective = Objective(config.loss, self.model.config.tasks, weighting, top_k=config.model.top_k).to(device)
        self.steps = math.ceil(len(fold.train) / config.train.batch_size)
        self.optimizer = make_optimizer(self.model, self.objective, config.train)
        self.scheduler = make_scheduler(self.optimizer, config.train, self.steps * config.train.epochs)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "float16")

    def run(self, report: Callable[[EpochReport], None], *, last: int | None = None) -> tuple[list[EpochReport], int]:
        """Trains, and leaves the best epoch's weights in the model; returns all reports and the best epoch.

        Args:
            report: called after every epoch.
            last: the epoch to end with, where it is not the configuration's last.
        """
        train, patience = self.config.train, self.config.train.patience
        history: list[EpochReport] = []
        best, best_value, best_weights = 0, -math.inf, None
        for epoch in range(1, (last or train.epochs) + 1):
            history.append(self._epoch(epoch))
            report(history[-1])
            if not patience:
                continue
            value = _quality(history[-1], train.monitor, self.objective.used)
            if value > best_value or best_weights is None:
                best, best_value, best_weights = epoch, value, copy.deepcopy(self.model.state_dict())
            if epoch - best >= patience:
                break
        if best_weights is None:
            return history, len(history)
        self.model.load_state_dict(best_weights)
        return history, best

    def _epoch(self, epoch: int) -> EpochReport:
        started = time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        trained = self._train(epoch)
        if not all(bool(value.isfinite().all()) for value in self.model.parameters()):
            raise TrainingError(f"epoch {epoch}: the weights are no longer numbers; lower train.learning_rate")
        inner = self._validate() if len(self.fold.inner) else {}
        seconds = time.perf_counter() - started
        learned = {} if self.objective.log_temperature is None else {"temperature": self._temperature()}
        return {"epoch": epoch, "seconds": seconds, "learning_rate": rate, **learned, **trained, **inner}

    def _temperature(self) -> float:
        return float(torch.as_tensor(self.objective.temperature).detach())

    def _batches(self) -> Iterator[Batch]:
        order = self.rng.permutation(self.fold.train)
        for documents in np.array_split(order, self.steps):
            drop = self.config.train.segment_dropout
            yield make_batch(self.store, self.labels, documents, segment_dropout=drop, rng=self.rng).to(self.device)

    def _train(self, epoch: int) -> dict[str, float]:
        self.model.train()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        counts: dict[str, int] = defaultdict(int)
        for batch in self._batches():
            terms = self._step(batch)
            for name, value in _measures(terms).items():
                sums[name] += value.detach() * len(batch)
                counts[name] += len(batch)
        means = torch.stack([total / counts[name] for name, total in sums.items()]).tolist()
        found = {f"train_{name}": mean for name, mean in zip(sums, means, strict=True)}
        wrong = [name for name, mean in found.items() if not math.isfinite(mean)]
        if wrong:
            raise TrainingError(f"epoch {epoch}: {wrong[0]} is {found[wrong[0]]}; lower train.learning_rate")
        return found

    def _step(self, batch: Batch) -> Terms:
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            output = self.model(batch)
        terms: Terms = self.objective(output, batch)
        self.scaler.scale(terms.total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        if self.config.train.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return terms

    def _autocast(self) -> AbstractContextManager[None]:
        precision = self.config.train.precision
        dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=precision != "float32")

    def _validate(self) -> dict[str, float]:
        """Task losses and AUCs on inner validation."""
        inner = self.fold.inner
        if all(np.isnan(self.labels[task][inner]).all() for task in self.objective.used):
            return {}
        logits = predict_logits(self.model, self.store, inner, batch_size=self.config.train.batch_size)
        labels = {task: torch.from_numpy(values[inner]).to(self.device) for task, values in self.labels.items()}
        with torch.inference_mode():
            found = {"inner_loss": float(self.objective.supervised(logits, labels))}
        for task, spec in self.model.config.tasks.items():
            value = auc(self.labels[task][inner], to_scores(logits[task], spec), spec.kind)
            if value is not None:
                found[f"inner_{task}_auc"] = value
        return found


def _measures(terms: Terms) -> dict[str, Tensor]:
    weighted = {f"weighted_{name}": value for name, value in terms.weighted.items()}
    return {"total": terms.total, **terms.values, **weighted, **terms.bounds}


def _quality(epoch: EpochReport, monitor: str, tasks: Sequence[str]) -> float:
    """How good an epoch is on inner validation for the trained `tasks`, higher is better; without any, the last is."""
    if "inner_loss" not in epoch:
        return epoch["epoch"]
    aucs = [epoch[name] for task in tasks if (name := f"inner_{task}_auc") in epoch]
    return float(np.mean(aucs)) if monitor == "auc" and aucs else -epoch["inner_loss"]


def _class_counts(labels: Labels, documents: IntArray) -> IntArray:
    values = labels.values[documents]
    return np.bincount(values[~np.isnan(values)].astype(np.int64), minlength=len(labels.spec.classes))


def make_optimizer(model: nn.Module, objective: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Fused AdamW; weight decay acts on matrices, not on biases, norms or the temperature."""
    named = [*model.named_parameters(), *objective.named_parameters()]
    decays = [value for name, value in named if value.ndim > 1 and not name.endswith("bias")]
    free = [value for name, value in named if value.ndim <= 1 or name.endswith("bias")]
    groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    fused = next(model.parameters()).device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> lr_scheduler.LRScheduler:
    """The course of the learning rate over all `steps` of the fit."""
    match config.schedule:
        case "one-cycle":
            return lr_scheduler.OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=max(steps, 2))
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        case "constant":
            return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
