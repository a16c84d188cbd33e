"""Arithmetic that several parts share."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it was: where half precision would lose the result."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
