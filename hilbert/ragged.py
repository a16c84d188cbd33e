"""Sequences of different lengths, packed without padding.

A batch of N documents with S_1 ... S_N segments is one tensor [tokens, D], tokens = S_1 + ... + S_N. Everything
that acts on single segments (projections, feed-forward layers) runs on it, so that padding costs nothing and
can't change a result. Only attention and pooling look at padded copies [N, S, D], S = max S_i.

Both directions are plain gathers and unique writes: no atomics, hence deterministic on GPUs too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """N sequences, packed.

    Attributes:
        values: [tokens, ...], sequence after sequence.
        slots: [tokens] int64, the place of each token in the padded, flattened layout [N * longest].
        lengths: [N] int64, tokens of each sequence; 0 is legal.
        longest: padded length S, at least 1.
        complete: whether every sequence has at least one token (known without asking the device).
    """

    values: Tensor
    slots: Tensor
    lengths: Tensor
    longest: int
    complete: bool

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor, *, longest: int | None = None) -> "Ragged":
        """Packs `values` [tokens, ...] whose sequences have the given `lengths` [N] (on the CPU).

        Args:
            longest: the padded length, where it shall be larger than the longest sequence.
        """
        longest = max(longest or 1, int(lengths.max()) if len(lengths) else 1)
        present = torch.arange(longest) < lengths[:, None]
        slots = present.flatten().nonzero().squeeze(1)
        return cls(values, slots.to(values.device), lengths.to(values.device), longest, bool((lengths > 0).all()))

    @classmethod
    def from_list(cls, sequences: Sequence[Tensor]) -> "Ragged":
        """Packs tensors [S_i, D]."""
        return cls.from_lengths(torch.cat(list(sequences)), torch.tensor([len(s) for s in sequences]))

    @classmethod
    def from_padded(cls, values: Tensor, mask: Tensor) -> "Ragged":
        """Packs padded `values` [N, S, D]; `mask` [N, S] is true at real segments, which must come first."""
        lengths = mask.sum(1)
        if not bool((mask == (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])).all()):
            raise ValueError("mask must be true for the first segments of each document and false for its padding")
        packed = cls.from_lengths(values[mask], lengths.cpu(), longest=mask.shape[1])
        return packed.to(values.device)

    def to(self, device: torch.device | str) -> "Ragged":
        """Moves to a device."""
        parts = (self.values.to(device), self.slots.to(device), self.lengths.to(device))
        return Ragged(*parts, self.longest, self.complete)

    def with_values(self, values: Tensor) -> "Ragged":
        """The same layout with other values [tokens, ...]."""
        return replace(self, values=values)

    @cached_property
    def mask(self) -> Tensor:
        """[N, S], true at real tokens."""
        return torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]

    @property
    def present(self) -> Tensor:
        """[N], true where a sequence has at least one token."""
        return self.lengths > 0

    @property
    def positions(self) -> Tensor:
        """[tokens], the index of each token within its sequence."""
        return self.slots % self.longest

    def padded(self) -> Tensor:
        """[N, S, ...], zeros where there is no token."""
        rows = len(self.lengths) * self.longest
        flat = self.values.new_zeros(rows, *self.values.shape[1:]).index_copy(0, self.slots, self.values)
        return flat.view(len(self.lengths), self.longest, *self.values.shape[1:])

    def packed(self, padded: Tensor) -> Tensor:
        """Values [tokens, ...] of a padded [N, S, ...]: the inverse of `padded`."""
        return padded.flatten(0, 1).index_select(0, self.slots)
