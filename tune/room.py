"""How much room the cluster has for fold jobs, and how much is asked of its autoscaler. Nodes come and go."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from hilbert.errors import StudyError
from tune.packing import MOST, Packing
from tune.space import ResourcesConfig

LOOK_EVERY = 2.0
"""Seconds between two looks at the cluster."""
MOST_ASKED = 1000
"""Fold jobs that the autoscaler is told of at most."""

MOST_PROBES = 4
"""Fold jobs that it is told of while it isn't known how many share a GPU: a fleet that is too large costs money."""

Amounts = Mapping[str, float]
"""What a node has: CPUs and GPUs."""


class Room:
    """Counts the fold jobs that fit on the cluster, and tells its autoscaler how many are waiting.

    A fold job that asks for a GPU runs on nodes that have one; the others are left alone.

    Args:
        resources: what a fold job occupies.
        there: what each node of the cluster has, now.
        ask: tells the autoscaler what is wanted in all, a bundle a fold job; None where there is nobody to tell.
        clock: seconds, monotonic.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        resources: ResourcesConfig,
        there: Callable[[], Sequence[Amounts]],
        ask: Callable[[list[dict[str, float]]], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.resources, self.there, self.ask, self.clock, self.sleep = resources, there, ask, clock, sleep
        self.packing = Packing(resources.gpus_per_job)
        self.known = 0
        """`slots` at the last count."""
        self._looked = -math.inf
        self._asked: tuple[int, dict[str, float]] | None = None
        self._nodes: Sequence[Amounts] = ()

    @property
    def job(self) -> dict[str, float]:
        """What a fold job occupies that is handed out now."""
        gpus = self.packing.gpus(self._beside())
        return {kind: amount for kind, amount in (("CPU", self.resources.cpus_per_job), ("GPU", gpus)) if amount}

    @property
    def slots(self) -> int:
        """Fold jobs that fit at once, now."""
        if self.clock() - self._looked >= LOOK_EVERY:
            self._nodes, self._looked = list(self.there()), self.clock()
        job = self.job
        fitting = sum(_fitting(job, node) for node in self._nodes)
        self.known = min(fitting, self.resources.workers or fitting)
        return self.known

    def want(self, jobs: int) -> None:
        """Tells the autoscaler how many fold jobs are left: it scales up at once, and down at the tail."""
        if self.ask is None:
            return
        most = MOST_ASKED if self.packing.known else MOST_PROBES
        wanted, job = min(jobs, self.resources.workers or most, most), self.job
        if (wanted, job) != self._asked:
            self._asked = wanted, job
            self.ask([dict(job)] * wanted)

    def wait(self, say: Callable[[str], None]) -> None:
        """Returns as soon as one fold job fits.

        Raises:
            StudyError: none does, and no autoscaler or person has added a node for `resources.minutes_for_nodes`.
        """
        if self.packing.auto and self.ask is None and not any(node.get("GPU") for node in self.there()):
            self.packing.without_gpus()
            say("there is no GPU here: fold jobs run on processors alone (resources.gpus_per_job: auto)")
        limit, said = self.clock() + 60 * self.resources.minutes_for_nodes, False
        while not self.slots:
            if self.ask is None or self.clock() >= limit:
                raise StudyError(self._too_little())
            if not said:
                say(f"{self._too_little()}; waiting up to {self.resources.minutes_for_nodes:g} minutes for nodes")
                said = True
            self.sleep(LOOK_EVERY)

    def _beside(self) -> int:
        """Fold jobs beside each other on one GPU for which some node has the processors."""
        found = [
            _times(node.get("CPU", 0), self.resources.cpus_per_job) // int(node["GPU"])
            for node in self._nodes
            if node.get("GPU", 0) >= 1
        ]
        return max(found, default=MOST)

    def _too_little(self) -> str:
        nodes, job = self.there(), self.job
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in job.items())
        has = "; ".join(" and ".join(f"{node.get(kind, 0):g} {kind}" for kind in job) for node in nodes[:5])
        less = "gpus_per_job (0: no GPU)" if self.packing.auto else "gpus_per_job"
        return (
            f"resources: a fold job asks for {wanted}, and no node of the cluster has that ({has or 'there is none'}):"
            f" ask for less in cpus_per_job and {less}, or add a node"
        )


def _fitting(job: Amounts, node: Amounts) -> int:
    """Fold jobs that fit on a node; a part of a GPU is all of one GPU's."""
    found = []
    for kind, amount in job.items():
        there = node.get(kind, 0)
        found.append(int(there) * _times(1, amount) if kind == "GPU" and amount < 1 else _times(there, amount))
    return min(found)


def _times(there: float, amount: float) -> int:
    return int(there / amount + 1e-9)
