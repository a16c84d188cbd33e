"""The combinations of a search that has finitely many: those of choices and of whole numbers."""

import itertools
import math

from tune.space import Choices, Parameters, Study, Value

MOST_LISTED = 5_000
"""Combinations of a search that are listed; of more it isn't known when they are used up."""


def combinations(study: Study) -> list[Parameters] | None:
    """All combinations of the searched values, impossible ones too; None where they can't be listed."""
    values = {name: _values(study, name) for name in study.parameters}
    finite = {name: found for name, found in values.items() if found is not None}
    if len(finite) < len(values) or math.prod(map(len, finite.values())) > MOST_LISTED:
        return None
    return [dict(zip(finite, chosen, strict=True)) for chosen in itertools.product(*finite.values())]


def _values(study: Study, name: str) -> list[Value] | range | None:
    """The values of a parameter; None where there is no end of them."""
    parameter = study.parameters[name]
    if isinstance(parameter, Choices):
        return parameter.choices
    return range(int(parameter.low), int(parameter.high) + 1) if study.is_whole(name) else None
