"""The same bits on a GPU, run after run, as far as torch has kernels for it. On the CPU a fit repeats itself anyway.

PyTorch notes, "Reproducibility": deterministic kernels, cuBLAS with a workspace of its own, no choice of algorithms by
their speed, attention by plain matrix products (the fused kernels' backward passes add in any order). TF32 is off, so
that a GPU's float32 is float32. Another model of GPU, or another version of torch, still gives other last bits.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"

logger = logging.getLogger(__name__)
_said: set[str] = set()


def prepare_cuda() -> None:
    """Sets what cuBLAS reads when it starts: to be called before this process uses a GPU."""
    os.environ.setdefault(WORKSPACE, ":4096:8")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Lets torch compute repeatably on a GPU, and puts its settings back. On another device it does nothing.

    An operation that has no deterministic kernel runs all the same, and is logged, once a process.
    """
    if device.type != "cuda":
        yield
        return
    prepare_cuda()
    with ExitStack() as stack:
        stack.callback(_restore, torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision())
        cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        stack.enter_context(cudnn)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_told_once())
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield


def _restore(mode: int, precision: str) -> None:
    torch.set_deterministic_debug_mode(mode)
    torch.set_float32_matmul_precision(precision)


@contextmanager
def _told_once() -> Iterator[None]:
    """Turns torch's warnings of what isn't deterministic into one line each in the log."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def told(message: Warning | str, *place: object, **more: object) -> None:
            words = str(message).split(". ")[0]
            if "determinis" not in words:
                show(message, *place, **more)  # type: ignore[arg-type]
            elif words not in _said:
                _said.add(words)
                logger.warning("the last bits may differ from run to run: %s", words)

        warnings.filterwarnings("always", message=".*determinis.*")
        warnings.showwarning = told
        yield
