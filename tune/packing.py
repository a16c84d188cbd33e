"""How many fold jobs share a GPU: `resources.gpus_per_job`, a number, or `auto` from what the jobs were seen to need.

Notation: n, fold jobs beside each other on one GPU. Ray knows shares of a GPU to 1/10,000: a job's is 1/n, rounded
down, so that n of them always fit.
"""

import math
from typing import Literal

CONTEXT = 600 * 2**20
"""Bytes that CUDA itself takes in every process (its context, the libraries' kernels), which torch doesn't count. About
0.4 to 0.6 GiB on the GPUs of the last years; it can't be measured for one process among others."""
MARGIN = 1.1
"""What is kept free: jobs differ, and memory fragments."""
MOST = 64
"""Fold jobs on one GPU at most, however small they are."""
STEPS = 10_000
"""Ray's resolution: a resource is a whole number of these parts."""


def share(jobs: int) -> float:
    """The part of a GPU that each of n `jobs` occupies, as Ray can count it: n fit, n + 1 don't (up to `MOST`)."""
    return math.floor(STEPS / jobs) / STEPS


class Packing:
    """Decides n, the same for the whole study; the results don't depend on it.

    With `auto` a job has a GPU to itself until the memory of one is known. Then the largest need seen and the smallest
    GPU seen decide: configurations differ in width, experts and batch size, and GPUs differ too.

    Args:
        gpus_per_job: the study file's.
    """

    def __init__(self, gpus_per_job: float | Literal["auto"]) -> None:
        self.auto = gpus_per_job == "auto"
        self._fixed = None if gpus_per_job == "auto" else gpus_per_job
        self._need, self._smallest, self._ceiling = 0, math.inf, MOST

    @property
    def known(self) -> bool:
        """Whether a job's share need not be found out any more."""
        return self._fixed is not None or self._need > 0

    def gpus(self, most: int = MOST) -> float:
        """GPUs that a fold job occupies.

        Args:
            most: fold jobs beside each other on one GPU for which there are processors.
        """
        if self._fixed is not None:
            return self._fixed
        return share(max(1, min(self.fitting, most)))

    @property
    def fitting(self) -> int:
        """How many fit by memory alone, n; 1 as long as nothing is known."""
        if not self._need:
            return 1
        return max(1, min(self._ceiling, math.floor(self._smallest / ((self._need + CONTEXT) * MARGIN))))

    def measured(self, peak: int, total: int) -> None:
        """Takes in what a job took at most, and the memory of its GPU, in bytes; a job without a GPU says 0 and 0."""
        self._need = max(self._need, peak)
        self._smallest = min(self._smallest, total or math.inf)

    def ran_out(self, gpus: float) -> bool:
        """Takes in that a job which occupied so much of a GPU ran out of its memory: from now on fewer share one.

        Returns:
            Whether that is why, so that the job shall run again: not if it had the GPU to itself, or a fixed share.
        """
        if not self.auto or not 0 < gpus <= share(2):
            return False
        self._ceiling = min(self._ceiling, math.floor(1 / gpus) - 1)
        return True

    def without_gpus(self) -> None:
        """There are none, and none will come: fold jobs run on processors."""
        self._fixed = 0.0
