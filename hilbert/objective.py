"""The one place that sums the losses.

    L = sum_tasks w_task L_task + w_con L_con + w_cka L_cka + w_mi L_mi + w_moe L_moe

Every term keeps its name, so that it can be logged on its own. A term whose weight is 0 is not computed.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hilbert import losses
from hilbert.batches import Batch
from hilbert.class_weights import ClassWeighting
from hilbert.config import LossConfig, TaskConfig
from hilbert.model import HilbertOutput
from hilbert.numeric import at_least_float32

logger = logging.getLogger(__name__)

MODALITIES = ("audio", "text")
Pairs = dict[str, tuple[Tensor, Tensor]]
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0


@dataclass(frozen=True)
class Terms:
    """The loss of one batch, term by term.

    Attributes:
        values: each term, unweighted, a scalar; the tasks' terms are called `task_<name>`.
        weights: what each term counts.
        bounds: the information bounds `information_audio` and `information_text`, in nats, where they were computed.
    """

    values: Mapping[str, Tensor]
    weights: Mapping[str, float]
    bounds: Mapping[str, Tensor]

    @property
    def weighted(self) -> dict[str, Tensor]:
        """Each term times its weight."""
        return {name: self.weights[name] * value for name, value in self.values.items()}

    @property
    def total(self) -> Tensor:
        """L, the scalar that is minimised."""
        return torch.stack(list(self.weighted.values())).sum()


class Objective(nn.Module):
    """Computes the terms of a batch. A module because the temperature may be learned."""

    def __init__(
        self,
        config: LossConfig,
        tasks: Mapping[str, TaskConfig],
        weighting: Mapping[str, ClassWeighting],
        *,
        top_k: int = 0,
    ) -> None:
        """Prepares the terms in use.

        Args:
            config: weights and variants.
            tasks: the model's tasks; at least one with a weight above 0.
            weighting: how each classification task balances its classes.
            top_k: experts that the gates keep; 0 for all.
        """
        super().__init__()
        self.config, self.tasks, self.weighting, self.top_k = config, tasks, weighting, top_k
        self.task_weights = {task: config.tasks.get(task, 1.0) for task in tasks}
        self.used = [task for task, weight in self.task_weights.items() if weight]
        start = torch.tensor(config.temperature).log()
        self.log_temperature = nn.Parameter(start) if config.learned_temperature else None
        self._skipped: set[tuple[str, str]] = set()

    @property
    def temperature(self) -> float | Tensor:
        """tau, fixed or learned."""
        if self.log_temperature is None:
            return self.config.temperature
        return self.log_temperature.exp()

    def _keep_temperature_in_range(self) -> None:
        """Moves a temperature that left its range to the border, where, unlike clamped, it has a gradient."""
        if self.log_temperature is not None:
            with torch.no_grad():
                self.log_temperature.clamp_(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))

    def supervised(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """The tasks' share of L, for logits [N, C] and labels [N] of each task: what inner validation looks at."""
        terms = self._tasks(logits, labels)
        return torch.stack([self.task_weights[task] * terms[f"task_{task}"] for task in self.used]).sum()

    def forward(self, output: HilbertOutput, batch: Batch) -> Terms:
        """The terms of `batch`, given the model's `output` for it."""
        config = self.config
        self._keep_temperature_in_range()
        values = self._tasks(output.logits, batch.labels)
        weights = {f"task_{task}": weight for task, weight in self.task_weights.items()}
        pairs = _pairs(output, batch)
        aligned = self._aligned(pairs)
        bounds = self._bounds(output, batch, pairs, aligned)
        if config.contrastive and aligned:
            values["contrastive"] = torch.stack(list(aligned.values())).mean()
        if config.cka and (similar := self._similarities(pairs)):
            values["cka"] = 1 - torch.stack(similar).mean()
        if config.mi and len(bounds) == len(MODALITIES):
            values["mi"] = (bounds["information_audio"] - bounds["information_text"]).square()
        if config.moe and output.gate_logits:
            values["moe"] = self._load(output)
        weights |= {name: getattr(config, name) for name in ("contrastive", "cka", "mi", "moe")}
        return Terms(values, {name: weights[name] for name in values}, bounds)

    def _tasks(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"task_{task}": self._task(task, logits[task], labels[task]) for task in self.used}

    def _task(self, task: str, logits: Tensor, labels: Tensor) -> Tensor:
        spec = self.tasks[task]
        if spec.kind == "regression":
            return losses.squared_error(logits, (labels - spec.mean) / spec.deviation)
        weighting = self.weighting[task]
        return losses.cross_entropy(
            logits, labels, class_weights=weighting.weights, logit_offset=weighting.logit_offset
        )

    def _aligned(self, pairs: Pairs, term: str = "contrastive") -> dict[str, Tensor]:
        """align(u, j) of each modality, which the contrastive loss and the InfoNCE bounds share."""
        if not (self.config.contrastive or (self.config.mi and self.config.mi_estimator == "infonce")):
            return {}
        enough = self._large_enough(pairs, term)
        return {name: losses.align(u, joint, self.temperature) for name, (u, joint) in enough.items()}

    def _bounds(
        self, output: HilbertOutput, batch: Batch, pairs: Pairs, aligned: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """I(a; j) and I(t; j) over the same documents: a bound can't exceed log N, so that N must be the same."""
        if batch.audio.complete and batch.text.complete:
            return self._information(pairs, aligned)
        both = batch.audio.present & batch.text.present
        common = {name: (getattr(output, name)[both], output.joint[both]) for name in MODALITIES}
        return self._information(common, self._aligned(common, "information_infonce"))

    def _information(self, pairs: Pairs, aligned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """I(u; j) of each modality in nats: estimated for the balance, or free with the contrastive loss."""
        if self.config.mi and self.config.mi_estimator == "gaussian":
            enough = self._large_enough(pairs, "information_gaussian")
            return {f"information_{name}": losses.information_gaussian(u, joint) for name, (u, joint) in enough.items()}
        return {
            f"information_{name}": losses.information_infonce(value, len(pairs[name][0]))
            for name, value in aligned.items()
        }

    def _similarities(self, pairs: Pairs) -> list[Tensor]:
        debiased = self.config.cka_estimator == "debiased"
        enough = self._large_enough(pairs, f"cka_{self.config.cka_estimator}")
        return [losses.linear_cka(u, joint, debiased=debiased) for u, joint in enough.values()]

    def _load(self, output: HilbertOutput) -> Tensor:
        gates = [torch.softmax(at_least_float32(logits), dim=1) for logits in output.gate_logits.values()]
        return torch.stack([losses.load_balance(gate, top_k=self.top_k or None) for gate in gates]).mean()

    def _large_enough(self, pairs: Pairs, term: str) -> Pairs:
        """The pairs with enough documents for `term`; says once which are too small."""
        minimum = losses.MINIMUM_DOCUMENTS[term]
        for name, (u, _) in pairs.items():
            if len(u) < minimum and (term, name) not in self._skipped:
                self._skipped.add((term, name))
                message = "a batch holds %d documents with %s, and %s needs %d: the term is left out there"
                logger.warning(message, len(u), name, term, minimum)
        return {name: pair for name, pair in pairs.items() if len(pair[0]) >= minimum}


def _pairs(output: HilbertOutput, batch: Batch) -> Pairs:
    """Each modality's embeddings beside the joint ones, for the documents that have the modality."""
    found: Pairs = {}
    for name in MODALITIES:
        embedding, sequence = getattr(output, name), getattr(batch, name)
        found[name] = (embedding, output.joint)
        if not sequence.complete:
            found[name] = (embedding[sequence.present], output.joint[sequence.present])
    return found
