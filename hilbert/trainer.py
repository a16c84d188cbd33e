"""The epoch loop of one fit: training, inner validation, choice of the epoch, and checkpoints of all that it takes.

What a `Trainer` does depends on its arguments and on torch's random state alone. Its state after any epoch can be
saved; a trainer that takes it up goes on to the same last bit.
"""

import copy
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from hilbert.batches import Batch, Features, IntArray, make_batch, modality, moments
from hilbert.class_weights import class_weighting
from hilbert.config import FitConfig, HilbertConfig, TaskConfig, TrainConfig
from hilbert.errors import HilbertError
from hilbert.folds import Fold, holds_every_class
from hilbert.metrics import auc
from hilbert.model import Hilbert
from hilbert.objective import Objective, Terms
from hilbert.prediction import predict, to_scores
from hilbert.tasks import Labels

EpochReport = dict[str, float]
"""Of one epoch: `epoch`, `seconds`, `learning_rate`, `temperature` if it is learned; `train_<term>` and
`train_weighted_<term>` for every loss term, and `train_total`; `inner_loss`, and `inner_<task>_auc` where defined."""


State = dict[str, Any]
"""Tensors, numbers, strings, and lists and dicts of them: what `torch.load(weights_only=True)` reads."""


class TrainingError(HilbertError):
    """Training can't go on: the loss is no longer a number."""


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
        self.history: list[EpochReport] = []
        self.best, self.best_value = 0, -math.inf
        self.best_weights: dict[str, Tensor] | None = None

    def run(
        self,
        report: Callable[[EpochReport], None],
        *,
        last: int | None = None,
        after_epoch: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains what is left to train, and leaves the chosen epoch's weights in the model.

        Args:
            report: called after every epoch.
            last: the epoch to end with, where it is not the configuration's last.
            after_epoch: called after every epoch, when `state` may be asked for.
        """
        while not self._finished(last or self.config.train.epochs):
            self.history.append(self._epoch(len(self.history) + 1))
            self._choose()
            after_epoch()
            report(self.history[-1])
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)

    @property
    def best_epoch(self) -> int:
        """The epoch that was chosen: the best on inner validation, or without patience the last."""
        return self.best if self.best_weights is not None else len(self.history)

    def state(self) -> State:
        """All that the next epochs depend on, torch's random state included. The tensors go on to change: no copies."""
        return {
            "history": self.history,
            "best": self.best,
            "best_value": self.best_value,
            "best_weights": self.best_weights,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "order": json.dumps(self.rng.bit_generator.state),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def take_up(self, state: State) -> None:
        """Goes on from a saved state of a trainer that was made with the same arguments."""
        for name in ("history", "best", "best_value", "best_weights"):
            setattr(self, name, state[name])
        for name in ("model", "objective", "optimizer", "scheduler", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        self.rng.bit_generator.state = json.loads(state["order"])
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def _finished(self, last: int) -> bool:
        patience, epoch = self.config.train.patience, len(self.history)
        out_of_patience = bool(patience) and self.best_weights is not None and epoch - self.best >= patience
        return epoch >= last or out_of_patience

    def _choose(self) -> None:
        """Keeps the weights of the latest epoch if it is the best so far."""
        train = self.config.train
        if not train.patience:
            return
        value = _quality(self.history[-1], train.monitor, self.objective.used)
        if value > self.best_value or self.best_weights is None:
            self.best, self.best_value = len(self.history), value
            self.best_weights = copy.deepcopy(self.model.state_dict())

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
        """Task losses on inner validation, and the AUCs of the tasks of which every class is trained."""
        inner = self.fold.inner
        if all(np.isnan(self.labels[task][inner]).all() for task in self.objective.used):
            return {}
        logits = predict(self.model, self.store, inner, batch_size=self.config.train.batch_size).logits
        labels = {task: torch.from_numpy(values[inner]).to(self.device) for task, values in self.labels.items()}
        with torch.inference_mode():
            found = {"inner_loss": float(self.objective.supervised(logits, labels))}
        for task, spec in self.model.config.tasks.items():
            if not holds_every_class(self.labels[task][self.fold.train], len(spec.classes)):
                continue
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
