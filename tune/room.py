"""How much room the cluster has for fold jobs, and how much is asked of its autoscaler. Nodes come and go."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from hilbert.errors import StudyError
from tune.space import ResourcesConfig

LOOK_EVERY = 2.0
"""Seconds between two looks at the cluster."""
MOST_ASKED = 1000
"""Fold jobs that the autoscaler is told of at most."""

Amounts = Mapping[str, float]
"""What a node has: CPUs and GPUs."""


class Room:
    """Counts the fold jobs that fit on the cluster, and tells its autoscaler how many are waiting.

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
        amounts = {"CPU": resources.cpus_per_job, "GPU": resources.gpus_per_job}
        self.job = {kind: amount for kind, amount in amounts.items() if amount}
        self.known = 0
        """`slots` at the last look."""
        self._looked, self._asked = -math.inf, -1

    @property
    def slots(self) -> int:
        """Fold jobs that fit at once, now."""
        if self.clock() - self._looked >= LOOK_EVERY:
            fitting = sum(self._fitting(node) for node in self.there())
            self.known, self._looked = min(fitting, self.resources.workers or fitting), self.clock()
        return self.known

    def want(self, jobs: int) -> None:
        """Tells the autoscaler how many fold jobs are left: it scales up at once, and down at the tail."""
        wanted = min(jobs, self.resources.workers or MOST_ASKED, MOST_ASKED)
        if self.ask is None or wanted == self._asked:
            return
        self._asked = wanted
        self.ask([dict(self.job)] * wanted)

    def wait(self, say: Callable[[str], None]) -> None:
        """Returns as soon as one fold job fits.

        Raises:
            StudyError: none does, and no autoscaler or person has added a node for `resources.minutes_for_nodes`.
        """
        limit, said = self.clock() + 60 * self.resources.minutes_for_nodes, False
        while not self.slots:
            if self.ask is None or self.clock() >= limit:
                raise StudyError(self._too_little())
            if not said:
                say(f"{self._too_little()}; waiting up to {self.resources.minutes_for_nodes:g} minutes for nodes")
                said = True
            self.sleep(LOOK_EVERY)

    def _fitting(self, node: Amounts) -> int:
        return min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in self.job.items())

    def _too_little(self) -> str:
        nodes = self.there()
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in self.job.items())
        has = "; ".join(" and ".join(f"{node.get(kind, 0):g} {kind}" for kind in self.job) for node in nodes[:5])
        return (
            f"resources: a fold job asks for {wanted}, and no node of the cluster has that ({has or 'there is none'}):"
            " ask for less in cpus_per_job and gpus_per_job, or add a node"
        )
