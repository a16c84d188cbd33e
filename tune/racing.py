"""Racing: giving up a configuration before all its folds are in, because it won't win.

Most of the noise of a fold is shared by all configurations: a hard fold is hard for everyone. So configurations are
compared on the same folds, fold by fold. Folds are handed out in one order, the same for all configurations; results
come in any order, and a fold whose score is undefined pairs with nothing.

A table maps a trial's number to its `Standing`. Rules are pure: they see the table and remember nothing, so that a
decision depends on which folds are in, never on when they came. Notation: T trials, F folds.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Scores = Mapping[int, float]
"""Fold number -> score of one configuration, higher is better; only folds that are done and defined."""

Floats = NDArray[np.float64]

RESOLUTION = 1e-9  # scores closer than this differ by rounding only: they are tied


@dataclass(frozen=True)
class Standing:
    """What has come in of one configuration; made anew when more comes in, never changed.

    Attributes:
        scores: its defined scores by fold.
        complete: whether every fold came in.
        abandoned: whether it was given up. Its jobs that were out then may still come in, even all of them.
        undefined: folds that came in without a score.
        together: score of some of its folds taken together, such as the AUC of their pooled predictions, None where it
            is undefined; without it, the mean of their scores counts.
    """

    scores: Scores
    complete: bool = False
    abandoned: bool = False
    undefined: Collection[int] = ()
    together: Callable[[Sequence[int]], float | None] | None = field(default=None, compare=False)
    _over: dict[tuple[int, ...], float | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def mean(self) -> float | None:
        """Mean score over the folds that are in; None without any."""
        return math.fsum(self.scores.values()) / len(self.scores) if self.scores else None

    @cached_property
    def defined(self) -> frozenset[int]:
        """Folds with a score."""
        return frozenset(self.scores)

    @cached_property
    def came_in(self) -> frozenset[int]:
        """Folds that came in, with a score or without."""
        return self.defined.union(self.undefined)

    def has(self, folds: Sequence[int]) -> bool:
        """Whether all of these folds came in, with a score or without."""
        return self.complete or self.came_in.issuperset(folds)

    def over(self, folds: tuple[int, ...]) -> float | None:
        """Score of folds that it has, together where that is how it scores, else their sum; computed once."""
        if folds not in self._over:
            scores = self.scores
            self._over[folds] = self.together(folds) if self.together else math.fsum(scores[fold] for fold in folds)
        return self._over[folds]


Table = Mapping[int, Standing]
Judge = Callable[[int], bool]
"""Number of a trial of the table -> whether to give it up."""


class Rule(Protocol):
    """Decides whether to give up a configuration."""

    def judge(self, table: Table, order: Sequence[int]) -> Judge:
        """Says of a trial whether to give it up, asked when a fold has come in; never of a complete one.

        What all trials are judged by is computed once, hence the judge's word is good until the table changes.

        Args:
            table: all trials that have a fold in.
            order: all folds, in the order in which they are handed out.
        """

    def ahead(self, done: int) -> int | None:
        """How many more folds a trial with so many done needs for the next decision; None if there won't be any."""


@dataclass(frozen=True)
class NoRacing:
    """Every configuration runs on all folds."""

    def judge(self, table: Table, order: Sequence[int]) -> Judge:  # noqa: ARG002
        """Gives nothing up."""
        return lambda _: False

    def ahead(self, done: int) -> int | None:  # noqa: ARG002
        """No decision is ever due."""
        return None


@dataclass(frozen=True)
class Wilcoxon:
    """Gives up what is significantly worse than the incumbent on the folds that both have.

    For when little of the fold noise is shared, or when the winner matters more than the jobs: with a threshold of
    0.05 it is rarely lost. The one-sided signed-rank test of `signed_rank_p` on the paired differences; as in Optuna's
    `WilcoxonPruner` it is repeated at every fold without correction, so the threshold weighs jobs saved against the
    chance to lose the winner, and is no error rate. A configuration whose mean paired difference isn't negative is
    never given up, whatever the ranks say. Without an incumbent nothing is given up.

    Attributes:
        threshold: gives up below this p-value. The smallest p-value of n folds is 2**-n.
        startup: fewest shared folds for a decision.

    Raises:
        ValueError: threshold outside (0, 1), or startup below 1.
    """

    threshold: float = 0.1
    startup: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, but is {self.threshold}")
        if self.startup < 1:
            raise ValueError(f"startup must be 1 or more, but is {self.startup}")

    def judge(self, table: Table, order: Sequence[int]) -> Judge:  # noqa: ARG002
        """Gives up a trial that is significantly worse than the incumbent."""
        best = incumbent(table)

        def hopeless(trial: int) -> bool:
            if best is None or table[trial].complete:
                return False
            differences = paired_differences(table[trial].scores, table[best].scores)
            if len(differences) < self.startup or differences.sum() >= 0:
                return False
            return signed_rank_p(differences) < self.threshold

        return hopeless

    def ahead(self, done: int) -> int | None:
        """Up to `startup` folds, then one at a time."""
        return max(self.startup - done, 1)


@dataclass(frozen=True)
class SuccessiveHalving:
    """Gives up what isn't among the best 1/eta of the configurations that came as far.

    The one to choose first: it needs no incumbent, which many workers wait for, and in simulation it saves more jobs
    than `Wilcoxon` at no more regret, unless little of the fold noise is shared.

    Asynchronous and of the stopping type (Li et al. 2020, "A system for massively parallel hyperparameter tuning"):
    nobody waits for a rung to fill. A configuration that has all of the first r folds, r the highest rung that it has
    reached, is compared by its mean over them with all that have them, given-up ones too. Of n, the best n / eta,
    rounded up, go on (rounded down, the few early ones lose the winner too often), and so do who is tied with the last
    of them and the best that isn't given up: one always comes through. Judged anew whenever one of its folds comes in,
    so that being early helps little. Folds undefined for one of them are left out for all. Where the objective is taken
    over folds together (the pooled AUC), so is what is compared: AUCs of small folds are coarse or undefined, and tell
    little of it.

    Attributes:
        rungs: numbers of folds after which to judge, ascending.
        eta: one in eta goes on.

    Raises:
        ValueError: rungs that don't ascend from 1 or more, or eta below 2.
    """

    rungs: Sequence[int] = (3, 8)
    eta: int = 3

    def __post_init__(self) -> None:
        if list(self.rungs) != sorted(set(self.rungs)) or any(rung < 1 for rung in self.rungs):
            raise ValueError(f"rungs must ascend from 1 or more, but are {list(self.rungs)}")
        if self.eta < 2:
            raise ValueError(f"eta must be 2 or more, but is {self.eta}")

    def judge(self, table: Table, order: Sequence[int]) -> Judge:
        """Gives up a trial outside the best 1/eta at its highest rung."""
        heats = cache(lambda rung: Heat.at(table, tuple(order[:rung])))

        def hopeless(trial: int) -> bool:
            standing = table[trial]
            reached = [r for r in self.rungs if r <= len(order) and standing.has(order[:r])]
            return bool(reached) and not standing.complete and heats(reached[-1]).leaves_out(trial, self.eta)

        return hopeless

    def ahead(self, done: int) -> int | None:
        """Up to the next rung."""
        return next((rung - done for rung in self.rungs if rung > done), None)


@dataclass(frozen=True)
class Heat:
    """Who has certain folds, and their scores over these.

    Attributes:
        values: score by trial; empty where one of them is undefined.
        ascending: these scores, sorted.
        lead: the highest of those who aren't given up.
    """

    values: Mapping[int, float]
    ascending: Sequence[float]
    lead: float

    @classmethod
    def at(cls, table: Table, folds: tuple[int, ...]) -> "Heat":
        """All trials that have these folds."""
        there = {trial: standing for trial, standing in table.items() if standing.has(folds)}
        found = _values(list(there.values()), folds)
        values = {} if found is None else dict(zip(there, found, strict=True))
        alive = [value for trial, value in values.items() if not table[trial].abandoned]
        return cls(values, sorted(values.values()), max(alive, default=-math.inf))

    def leaves_out(self, trial: int, eta: int) -> bool:
        """Whether the best 1/eta, rounded up, are better than a trial, and one of the better is not given up."""
        if trial not in self.values:
            return False
        level = self.values[trial] + RESOLUTION
        better = len(self.ascending) - bisect_right(self.ascending, level)
        return better >= math.ceil(len(self.ascending) / eta) and self.lead > level


RULES: Mapping[str, Rule] = MappingProxyType(
    {"none": NoRacing(), "wilcoxon": Wilcoxon(), "successive-halving": SuccessiveHalving()}
)
"""Rules by the name that the study file calls them: `racing: none | wilcoxon | successive-halving`."""


def fold_order(folds: int, *, seed: int) -> list[int]:
    """The order in which every configuration takes its folds: a permutation of 0 .. folds - 1."""
    return [int(fold) for fold in np.random.default_rng(seed).permutation(folds)]


def next_trial(open: Mapping[int, tuple[int, int]], *, speculation: int | None, rule: Rule | None = None) -> int | None:
    """The trial to take the next fold from; None to propose a new configuration.

    Fewest folds out first, so that little is lost when a trial is given up; then the furthest along, so that an
    incumbent comes early; then the lowest number. A trial has no more folds out than its rule needs for the next
    decision: what runs beyond a rung is lost when the trial doesn't pass it.

    Args:
        open: trial -> (folds out, folds done), of the trials that have folds left to hand out.
        speculation: most folds of one trial that are out at once; None, when no new configuration is left, for no
            limit, the rule's neither.
        rule: the rule that decides, if any.
    """

    def has_room(out: int, done: int) -> bool:
        ahead = None if rule is None else rule.ahead(done)
        return speculation is None or out < min(speculation, speculation if ahead is None else ahead)

    free = [trial for trial, (out, done) in open.items() if has_room(out, done)]
    return min(free, key=lambda trial: (open[trial][0], -open[trial][1], trial), default=None)


def incumbent(table: Table) -> int | None:
    """The complete trial with the highest mean over all its folds, the lowest number if tied; None without any."""
    means = [(s.mean, -trial) for trial, s in table.items() if s.complete and s.mean is not None]
    return -max(means)[1] if means else None


def _values(standings: Sequence[Standing], folds: tuple[int, ...]) -> list[float] | None:
    """Score of each over folds that all have, those left out that are undefined for one; None where that is."""
    if not all(standing.together for standing in standings):
        folds = tuple(fold for fold in folds if all(fold in standing.defined for standing in standings))
    values = [value for standing in standings if (value := standing.over(folds)) is not None]
    return values if len(values) == len(standings) else None


def paired_differences(scores: Scores, others: Scores) -> Floats:
    """Scores - others on the folds that both have, [n], in whole units of `RESOLUTION`: sums and ties are exact."""
    shared = scores.keys() & others.keys()
    return np.rint(np.array([scores[fold] - others[fold] for fold in shared], dtype=np.float64) / RESOLUTION)


def shortfall(trial: int, table: Table) -> tuple[int, float, int] | None:
    """Who a trial is furthest behind, on all folds that it has: the rival, by how much, and how many folds these are.

    Rivals are trials that have these folds too and aren't given up. None where it is behind nobody.
    """
    standing = table[trial]
    folds = (*standing.scores, *standing.undefined)
    rivals = [n for n, other in table.items() if n != trial and not other.abandoned and other.has(folds)]
    values = _values([standing, *(table[rival] for rival in rivals)], folds)
    if not rivals or not values or not folds:
        return None
    per_fold = 1 if standing.together is not None else len(standing.scores)
    lead, rival = max((value - values[0], -number) for value, number in zip(values[1:], rivals, strict=True))
    return (-rival, lead / per_fold, len(folds)) if lead > 0 else None


def signed_rank_p(differences: Floats) -> float:
    """Exact p-value of the one-sided Wilcoxon signed-rank test that differences lie below zero.

    Wilcoxon (1945), "Individual comparisons by ranking methods". Exact for every n, and with ties too: tied
    magnitudes share their mean rank, and the null distribution is that of random signs on just these ranks. Zeros are
    ranked with the others and half of their ranks counts for each side (`zsplit`), which shifts the statistic and its
    null distribution alike.

    Args:
        differences: [n]; n = 0, or all zero, gives 1.
    """
    magnitudes = np.abs(differences)
    ascending = np.sort(magnitudes)
    ranks = ascending.searchsorted(magnitudes, "left") + ascending.searchsorted(magnitudes, "right") + 1
    statistic = int(ranks[differences > 0].sum())
    return float(_signed_rank_cdf(tuple(np.sort(ranks[differences != 0]).tolist()))[statistic])


@lru_cache(maxsize=1024)
def _signed_rank_cdf(ranks: tuple[int, ...]) -> Floats:
    """P(sum of the ranks with positive sign <= w) for w = 0, 1, ... sum(ranks); ranks are doubled, hence integers."""
    density = np.zeros(sum(ranks) + 1)
    density[0] = 1.0
    for rank in ranks:
        positive = np.zeros_like(density)
        positive[rank:] = density[:-rank]
        density = (density + positive) / 2
    return density.cumsum()
