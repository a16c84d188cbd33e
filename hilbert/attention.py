"""Cross-modal attention: the segments of one modality look at those of the other.

Shapes: N documents; Sq and Sk segments of the asking and of the answering modality (padded); d = width,
h = heads, dh = d / h.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hilbert.ragged import Ragged


def position_signal(positions: Tensor, width: int) -> Tensor:
    """Sinusoids of the segments' positions: [tokens] -> [tokens, d].

    Vaswani et al. 2017, "Attention is all you need", section 3.5, with sines first and cosines after them.
    """
    octaves = torch.arange(0, width, 2, device=positions.device) / width
    angles = positions[:, None].float() * torch.exp(-math.log(10_000.0) * octaves)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention, softmax(Q K^T / sqrt(dh)) V, over the real keys.

    Vaswani et al. 2017, equation 1.

    Args:
        query: [N, h, Sq, dh].
        key: [N, h, Sk, dh].
        value: [N, h, Sk, dh].
        mask: [N, Sk], true at real keys. A document without any gets zeros.

    Returns:
        [N, h, Sq, dh].
    """
    answered = mask.any(dim=1)
    visible = (mask | ~answered[:, None])[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    return mixed * answered[:, None, None, None]


class CrossAttention(nn.Module):
    """Multi-head attention from one packed sequence to another.

    Keys have no bias: it shifts all scores of a query alike, so that its gradient is zero but for rounding,
    which Adam would turn into steps.
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, asking: Ragged, answering: Ragged) -> Tensor:
        """From `asking` [tokens_q, d] to `answering` [tokens_k, d]; returns [tokens_q, d]."""
        query = self._split(asking, self.query)
        key, value = self._split(answering, self.key), self._split(answering, self.value)
        mixed = attend(query, key, value, answering.mask).transpose(1, 2).flatten(2)
        attended: Tensor = self.output(asking.packed(mixed))
        return attended

    def _split(self, sequence: Ragged, projection: nn.Linear) -> Tensor:
        padded = sequence.with_values(projection(sequence.values)).padded()
        return padded.view(*padded.shape[:2], self.heads, -1).transpose(1, 2)


class CrossModalBlock(nn.Module):
    """One pre-norm block: attention to the other modality, then a feed-forward layer, both residual.

    Tsai et al. 2019, "Multimodal transformer for unaligned multimodal language sequences", equation 4: every
    block attends to the other modality's low-level sequence, not to the output of that modality's own blocks.
    """

    def __init__(self, width: int, *, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.norm_asking = nn.LayerNorm(width)
        self.norm_answering = nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads=heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, feed_forward * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(feed_forward * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, asking: Ragged, answering: Ragged) -> Ragged:
        """Returns `asking` [tokens_q, d], informed by `answering` [tokens_k, d]."""
        normed = asking.with_values(self.norm_asking(asking.values))
        context = answering.with_values(self.norm_answering(answering.values))
        hidden = asking.values + self.dropout(self.attention(normed, context))
        return asking.with_values(hidden + self.dropout(self.feed_forward(hidden)))


class CrossModalEncoder(nn.Module):
    """L blocks in one direction, and the final norm that pre-norm blocks need."""

    def __init__(self, width: int, *, layers: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            CrossModalBlock(width, heads=heads, feed_forward=feed_forward, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, asking: Ragged, answering: Ragged) -> Ragged:
        """From H of one modality to Z, attending to H of the other."""
        hidden = asking
        for block in self.blocks:
            hidden = block(hidden, answering)
        return hidden.with_values(self.norm(hidden.values))
