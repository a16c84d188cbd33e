"""Self-attentive pooling: from the segments of a document to one vector.

Shapes: N documents, S segments (padded), d = width, r = hops.
"""

import torch
from torch import Tensor, nn

from hilbert.numeric import at_least_float32
from hilbert.ragged import Ragged


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over dimension 1 of `scores` [N, S, r], over the entries where `mask` [N, S] is true.

    Everywhere else the weight is exactly 0; a document with no true entry has no weights at all.
    """
    mask = mask.unsqueeze(-1)
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=1)
    return weights.masked_fill(~mask, 0.0)


class SelfAttentivePooling(nn.Module):
    """Weights softmax(w2 . tanh(W1 h_s)) over the real segments of one or several sequences.

    Lin et al. 2017, "A structured self-attentive sentence embedding", equations 5 and 6. With r > 1 hops the r
    weighted means are joined and projected back to the width. A document without segments becomes zero.
    """

    def __init__(self, width: int, *, hops: int = 1) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, hops, bias=False))
        self.merge = nn.Linear(hops * width, width, bias=False) if hops > 1 else nn.Identity()

    def forward(self, *sequences: Ragged) -> tuple[Tensor, tuple[Ragged, ...]]:
        """Pools the union of `sequences`, each [tokens, d].

        Returns:
            The pooled vectors [N, d], and for each sequence its weights [tokens, r], which over all sequences
            of a document sum to 1.
        """
        scores = torch.cat([s.with_values(at_least_float32(self.score(s.values))).padded() for s in sequences], dim=1)
        weights = masked_softmax(scores, torch.cat([s.mask for s in sequences], dim=1))
        values = torch.cat([s.padded() for s in sequences], dim=1)
        pooled = torch.einsum("nsr,nsd->nrd", weights.to(values.dtype), values).flatten(1)
        split = torch.split(weights, [s.longest for s in sequences], dim=1)
        parts = tuple(s.with_values(s.packed(w)) for s, w in zip(sequences, split, strict=True))
        return self.merge(pooled), parts
