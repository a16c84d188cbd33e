"""Multi-gate mixture of experts: shared experts, and for each task its own gate and head.

Ma et al. 2018, "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts".

Shapes: N documents, I = input width, E = experts, W = expert width, C = outputs of a task.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hilbert.numeric import at_least_float32


def gate_probabilities(logits: Tensor, *, top_k: int = 0) -> Tensor:
    """Softmax of the gate's `logits` [N, E], over the `top_k` largest of each row (0: over all).

    Shazeer et al. 2017, "Outrageously large neural networks", equations 3 and 5. Computed in float32 at least.
    A single chosen expert has the weight 1 whatever the logits: so that the gate learns from the task all the same,
    the gradient is then that of the chosen expert's probability among all (as in Switch, Fedus et al. 2022).
    """
    logits = at_least_float32(logits)
    if not 0 < top_k < logits.shape[1]:
        return torch.softmax(logits, dim=1)
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.topk(top_k, dim=1).indices, True)
    if top_k == 1:
        probabilities = torch.softmax(logits, dim=1)
        return torch.where(kept, 1 + (probabilities - probabilities.detach()), 0)
    return torch.softmax(logits.masked_fill(~kept, -math.inf), dim=1)


class BatchedLinear(nn.Module):
    """E linear layers side by side: [E, N, I] -> [E, N, O]."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [E, N, I] -> [E, N, O]."""
        return torch.baddbmm(self.bias.to(x.dtype), x, self.weight.to(x.dtype))


class MixtureOfExperts(nn.Module):
    """The classifier. One expert is a plain multilayer perceptron, whose gate is 1."""

    def __init__(
        self,
        inputs: int,
        outputs: Mapping[str, int],
        *,
        experts: int,
        width: int,
        top_k: int = 0,
        gate_noise: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.experts, self.top_k, self.gate_noise = experts, top_k, gate_noise
        self.tasks = tuple(outputs)
        self.hidden = BatchedLinear(experts, inputs, width)
        self.output = BatchedLinear(experts, width, width)
        self.dropout = nn.Dropout(dropout)
        self.gates = nn.ModuleList(nn.Linear(inputs, experts) for _ in (outputs if experts > 1 else ()))
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in outputs.values())

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """From documents to predictions.

        Args:
            x: [N, I].

        Returns:
            For each task its logits [N, C]; the experts' weights [N, E]; and the gate's logits [N, E] before the
            choice of the top k, for the load balance. With one expert there is no gate: no weights but 1, no logits.
        """
        shared = x.unsqueeze(0).expand(self.experts, -1, -1)
        hidden = self.dropout(F.gelu(self.hidden(shared)))
        answers = F.gelu(self.output(hidden))
        logits: dict[str, Tensor] = {}
        gate_logits = {task: self._noisy(gate(x)) for task, gate in zip(self.tasks, self.gates, strict=False)}
        gates = {task: self._weights(gate_logits.get(task), x) for task in self.tasks}
        for task, head in zip(self.tasks, self.heads, strict=True):
            mixed = torch.einsum("ne,enw->nw", gates[task].to(answers.dtype), answers)
            logits[task] = head(self.dropout(mixed))
        return logits, gates, gate_logits

    def _noisy(self, logits: Tensor) -> Tensor:
        if self.training and self.gate_noise:
            return logits + self.gate_noise * torch.randn_like(logits)
        return logits

    def _weights(self, logits: Tensor | None, x: Tensor) -> Tensor:
        if logits is None:
            return at_least_float32(torch.ones(len(x), 1, device=x.device, dtype=x.dtype))
        return gate_probabilities(logits, top_k=self.top_k)
