"""Fold jobs whose worker is gone: whether it died of itself, or its node was lost, which the job can't be blamed for.

When a machine is switched off or loses power, its workers are often missed many seconds before the node is (Ray's
health check takes 15 by default, more where a cable is pulled). So a job waits here until its node is known to be lost,
or has answered.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tune.job import FoldJob

LOOK_EVERY = 1.0
"""Seconds between two looks at the nodes."""
GRACE = 3.0
"""Seconds after which a node is asked for an answer: one that is being shut down has none left to give."""
PATIENCE = 120.0
"""Seconds after which a node that neither answers nor is known to be lost counts as alive."""
MOST_LOSSES = 10
"""Nodes that a job may lose; those after count as its failures, for it may be what brings them down."""
UNKNOWN = "of unknown name"


@dataclass(frozen=True)
class Node:
    """A node of the cluster, past ones too."""

    name: str
    alive: bool


@dataclass(frozen=True)
class Gone:
    """A fold job whose worker is gone.

    Attributes:
        job: the fold job.
        started: when it was handed out, in seconds since 1970.
        gpus: what it occupied.
        why: the error of its worker, for the record.
        node: identity of its node, empty where it isn't known.
        lost: the scheduler says already that the node was lost.
        died: it is known already that it was not.
    """

    job: FoldJob
    started: float
    gpus: float
    why: str
    node: str = ""
    lost: bool = False
    died: bool = False


class Missing:
    """Jobs whose worker is gone, until it is known why.

    Args:
        nodes: all nodes by identity, those that are lost too.
        answers: whether a node has answered; the first call asks it, none of them waits.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        nodes: Callable[[], Mapping[str, Node]],
        answers: Callable[[str], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nodes, self.answers, self.clock = nodes, answers, clock
        self.losses: Counter[str] = Counter()
        self._since: dict[str, tuple[float, Gone]] = {}
        self._looked = -math.inf

    def add(self, gone: Gone) -> None:
        """Takes in a job, or more that is known of it."""
        since, _ = self._since.get(gone.job.identity, (self.clock(), gone))
        self._since[gone.job.identity] = since, gone

    def settled(self) -> tuple[list[tuple[Gone, str]], list[Gone]]:
        """Those of which it is known by now: with the names of the nodes that they lost; and those that died."""
        if not self._since or self.clock() - self._looked < LOOK_EVERY:
            return [], []
        self._looked, nodes = self.clock(), self.nodes()
        latest = {gone.node: since for since, gone in sorted(self._since.values(), key=lambda pair: pair[0])}
        lost, died = [], []
        for since, gone in list(self._since.values()):
            node = nodes.get(gone.node)
            if gone.lost or (node is not None and not node.alive):
                if self._looked - latest[gone.node] < LOOK_EVERY:  # others of its node may come: they are told together
                    continue
                lost.append((gone, node.name if node else UNKNOWN))
            elif gone.died or self._lives(gone.node, node, self._looked - since):
                died.append(gone)
            else:
                continue
            del self._since[gone.job.identity]
        return lost, died

    def _lives(self, identity: str, node: Node | None, waited: float) -> bool:
        return waited >= PATIENCE or (waited >= GRACE and node is not None and self.answers(identity))

    def lose(self, job: FoldJob) -> bool:
        """Counts a lost node; returns whether the job may lose another."""
        self.losses[job.identity] += 1
        return self.losses[job.identity] <= MOST_LOSSES


def tell(names: Mapping[str, int]) -> list[str]:
    """A line for each node that was lost, with the number of its fold jobs that run again."""
    return [
        f"node {name} was lost: {count} fold job{' runs' if count == 1 else 's run'} again"
        for name, count in names.items()
        if count
    ]
