"""What a fold job takes of its GPU's memory, as torch knows it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch


class GpuMemory(NamedTuple):
    """In bytes; zeros where a job used no GPU."""

    peak: int = 0
    """The most that torch had reserved, what it keeps for later included."""
    total: int = 0
    """Of the GPU."""


Meter = Callable[[], AbstractContextManager[Callable[[], GpuMemory]]]
"""Measures what is done within it; what it gives tells the memory so far."""


@contextmanager
def cuda_meter() -> Iterator[Callable[[], GpuMemory]]:
    """Measures the GPU that this process uses most; what is kept for later goes back to the others before and after."""
    _forget()
    try:
        yield _read
    finally:
        _forget()


def _forget() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def _read() -> GpuMemory:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return GpuMemory()
    devices = range(torch.cuda.device_count())
    peak, device = max((torch.cuda.max_memory_reserved(device), device) for device in devices)
    return GpuMemory(peak, torch.cuda.get_device_properties(device).total_memory) if peak else GpuMemory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory was exhausted: torch says so itself, CUDA and cuBLAS in words."""
    words = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
