"""Repeating the choice of a search on resampled documents, and scoring what was chosen on the documents left out.

What `bbc_cv` and `promotion` have in common. The best of many configurations looks better than it is, since part of
what made it the best is luck. So the choice is repeated in resamples of the groups, and what is chosen there is scored
on the groups that the resample left out, which had no part in the choice. No model is trained.

Notation: M configurations, R repeats of cross-validation, N documents, n of them with a label, C classes, B resamples,
G groups with a label.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilbert.metrics.ranking import weighted_auc
from hilbert.metrics.shapes import FEWEST_DEFINED, Array, Kind, labelled

Numbers = NDArray[np.int64]
_NOBODY = -1
_DRAWS = 5
"""How many stand-ins a configuration without all predictions gets, each for as many of the resamples."""


@dataclass(frozen=True)
class Part:
    """One task: labels [n] and scores [M, R, n] or [M, R, n, C] of its labelled documents, whose rows are [n].

    `counted` [R, n] says which predictions count.
    """

    y: Array
    scores: Array
    kind: Kind
    rows: Numbers
    counted: NDArray[np.bool_]

    def present(self) -> NDArray[np.bool_]:
        """Which predictions are there, [M, R, n]."""
        return ~np.isnan(self.scores.sum(3) if self.scores.ndim == 4 else self.scores)

    def weights(self, weights: Array, repeat: int) -> Array:
        """Weights [B, N] of the documents, as those of a repeat's predictions that count, [B, n]."""
        mine = weights[:, self.rows]
        counted = self.counted[repeat]
        return mine if counted.all() else mine * counted


@dataclass(frozen=True)
class Table:
    """All tasks, and those that the winner is chosen by; which configurations have all predictions or none, [M]."""

    parts: Mapping[str, Part]
    chosen_by: Sequence[str]
    documents: int
    complete: NDArray[np.bool_]
    empty: NDArray[np.bool_]

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Documents with a label and a prediction that counts in any task, [N]."""
        rows = [part.rows[part.counted.any(0)] for part in self.parts.values()]
        return np.isin(np.arange(self.documents), np.concatenate(rows))

    def objective(self, values: Mapping[str, Array]) -> Array:
        """What the winner is chosen by, of AUCs by task; NaN where any of them is."""
        mean: Array = np.mean([values[name] for name in self.chosen_by], axis=0)
        return mean

    def auc(self, name: str, configuration: int, weights: Array, stand_in: int) -> Array:
        """AUC of a configuration, completed by its stand-in, mean over repeats, in resamples of weights [B, N]: [B]."""
        part = self.parts[name]
        values = [
            weighted_auc(part.y, one, part.kind, part.weights(weights, repeat))
            for repeat, one in enumerate(_predictions(part, configuration, stand_in))
        ]
        mean: Array = np.mean(values, axis=0)
        return mean

    def worth(self, configuration: int, weights: Array, stand_in: int | None = None) -> Array:
        """What the winner is chosen by, of one configuration: [B]."""
        by = configuration if stand_in is None else stand_in
        return self.objective({name: self.auc(name, configuration, weights, by) for name in self.chosen_by})


class Choice(NamedTuple):
    """Who is chosen in each resample, and whose predictions complete its own; [B], -1 where that is undefined."""

    winners: Numbers
    stand_ins: Numbers

    def pairs(self) -> Iterator[tuple[int, int, Numbers]]:
        """Each winner with each of its stand-ins, and the resamples where they are chosen."""
        both = np.stack([self.winners, self.stand_ins], axis=1)
        for winner, stand_in in np.unique(both[self.winners != _NOBODY], axis=0).tolist():
            yield winner, stand_in, np.flatnonzero((both == (winner, stand_in)).all(1))


class Scored(NamedTuple):
    """AUC of what a resample chose: on the documents left out of the resample, and on all; [B], NaN where undefined."""

    outside: Array
    whole: Array


class Estimate(NamedTuple):
    """A mean over resamples, its standard error, and how many resamples it stands on."""

    mean: float
    error: float
    resamples: int


def draw(codes: Numbers, labelled_documents: NDArray[np.bool_], resamples: int, seed: int) -> Array:
    """How often each resample of the G groups that hold a label holds each document, [B, N]."""
    everyone = np.unique(codes[labelled_documents])
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = generator.multinomial(len(everyone), np.full(len(everyone), 1 / len(everyone)), size=resamples)
    weights = np.zeros((resamples, codes.max() + 1))
    weights[:, everyone] = draws
    drawn: Array = weights[:, codes]
    return drawn


def choose(table: Table, candidates: Numbers, inside: Array, seed: int) -> Choice:
    """The best of the candidates in each resample, `inside` [B, N].

    A candidate without all predictions is completed by those of complete candidates drawn at random, a fifth of the
    resamples each. Why at random: see `hilbert.metrics.bbc_cv`.
    """
    complete = candidates[table.complete[candidates]]
    partial = candidates[~(table.complete | table.empty)[candidates]]
    values = np.stack([table.worth(one, inside) for one in complete.tolist()])
    best = np.full(len(inside), np.nan)
    winners = np.full(len(inside), _NOBODY)
    usable = np.flatnonzero(~np.isnan(values).any(0))
    best[usable], winners[usable] = values[:, usable].max(0), complete[values[:, usable].argmax(0)]
    stand_ins = winners.copy()
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    turn = np.arange(len(inside)) * _DRAWS // len(inside)
    for one in partial.tolist():
        drawn = complete[generator.integers(len(complete), size=_DRAWS)][turn]
        for stand_in in np.unique(drawn).tolist():
            rows = np.flatnonzero(drawn == stand_in)
            value = table.worth(one, inside[rows], stand_in)
            won = value > best[rows]
            best[rows[won]], winners[rows[won]], stand_ins[rows[won]] = value[won], one, stand_in
    return Choice(winners, stand_ins)


def score_chosen(table: Table, choice: Choice, inside: Array) -> dict[str, Scored]:
    """By task, the AUC of what each resample chose, on the documents that it left out and on all."""
    left_out, everyone = (inside == 0).astype(np.float64), np.ones((1, table.documents))
    found = {name: Scored(*np.full((2, len(inside)), np.nan)) for name in table.parts}
    for winner, stand_in, rows in choice.pairs():
        weights = np.concatenate([left_out[rows], everyone])
        for name, scored in found.items():
            *outside, scored.whole[rows] = table.auc(name, winner, weights, stand_in)
            scored.outside[rows] = outside
    return found


def estimate(scored: Scored, groups: int) -> Estimate | None:
    """Mean over the resamples of the AUC outside, and its standard error; None where too few are defined.

    Subsets of a share f of the groups scatter around all G by (1/f - 1) sigma^2 / G, so that the standard error of all
    is the deviation of the subsets' AUC from that of the same configuration on all, times sqrt(f / (1 - f)): the
    delete-d jackknife (Wu 1986; Shao and Wu 1989). A resample leaves out f = (1 - 1/G)^G of the groups.
    """
    defined = ~np.isnan(scored.outside) & ~np.isnan(scored.whole)
    if defined.sum() < max(2, FEWEST_DEFINED * len(defined)):
        return None
    outside, left_out = scored.outside[defined], (1 - 1 / groups) ** groups
    deviation = (outside - scored.whole[defined]).std(ddof=1)
    error = float(deviation * np.sqrt(left_out / (1 - left_out)))
    return Estimate(float(outside.mean()), error, int(defined.sum()))


def _predictions(part: Part, configuration: int, stand_in: int) -> Iterator[Array]:
    """A configuration's scores of each repeat, completed by those of the stand-in."""
    for repeat, own in enumerate(part.scores[configuration]):
        has = ~np.isnan(own).any(1) if own.ndim == 2 else ~np.isnan(own)
        yield own if has.all() else _completed(own, part.scores[stand_in, repeat], has)


def _completed(own: Array, stand_in: Array, has: NDArray[np.bool_]) -> Array:
    """The stand-in's scores, [n] or [n, C], but in the configuration's own order among the documents that it has."""
    if own.ndim == 2:
        return np.column_stack([_completed(*column, has) for column in zip(own.T, stand_in.T, strict=True)])
    filled, mine, values = stand_in.copy(), own[has], np.sort(stand_in[has])
    if len(mine):
        ascending = np.sort(mine)
        places = (ascending.searchsorted(mine, "left") + ascending.searchsorted(mine, "right") - 1) / 2  # ties: middle
        filled[has] = np.interp(places, np.arange(len(values)), values)
    return filled


# ---- shapes ----------------------------------------------------------------------------------------------------------


def table_of(
    labels: Mapping[str, ArrayLike],
    scores: Mapping[str, ArrayLike],
    kinds: Mapping[str, Kind],
    task: str | None,
    counted: Mapping[str, ArrayLike] | None = None,
) -> Table:
    """Labels and scores, checked; see `hilbert.metrics.bbc_cv` for the shapes.

    Raises:
        ValueError: shapes that don't fit each other, or a label that is no class.
    """
    if not kinds or not labels.keys() == scores.keys() == kinds.keys():
        raise ValueError(
            f"labels, scores and kinds must be of the same tasks: {list(labels)}, {list(scores)}, {list(kinds)}"
        )
    if task is not None and task not in kinds:
        raise ValueError(f"task must be one of {', '.join(kinds)}, not {task!r}")
    which = counted or {}
    parts = {name: _part(name, labels[name], scores[name], kind, which.get(name)) for name, kind in kinds.items()}
    sizes = {(len(part.scores), part.scores.shape[1], len(np.asarray(labels[name]))) for name, part in parts.items()}
    if len(sizes) > 1:
        raise ValueError(f"tasks differ in configurations, repeats or documents: {sorted(sizes)}")
    configurations, _, documents = sizes.pop()
    complete, empty = np.ones((2, configurations), dtype=bool)
    for part in parts.values():
        present = part.present()
        complete &= present.all((1, 2))
        empty &= ~present.any((1, 2))
    return Table(parts, [task] if task else list(kinds), documents, complete, empty)


def _part(name: str, labels: ArrayLike, scores: ArrayLike, kind: Kind, counted: ArrayLike | None) -> Part:
    y, values = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or values.ndim not in (3, 4) or values.shape[2] != len(y):
        raise ValueError(
            f"{name}: scores must be [configurations, repeats, {len(y)}] or [..., classes], not {list(values.shape)}"
        )
    which = np.ones(values.shape[1:3], np.bool_) if counted is None else np.asarray(counted, dtype=np.bool_)
    if which.shape != values.shape[1:3]:
        raise ValueError(f"{name}: counted must be {list(values.shape[1:3])}, not {list(which.shape)}")
    rows = np.flatnonzero(~np.isnan(y))
    labelled(y, np.zeros(values.shape[2:]), kind)  # shapes and labels fit the kind
    if kind != "multiclass" and values.ndim == 4:
        values = values[..., -1]
    return Part(y[rows], values[:, :, rows], kind, rows, which[:, rows])
