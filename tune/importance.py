"""Which searched parameters mattered: functional analysis of variance over the configurations that have a value."""

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from tune.space import Choices, Parameter, Parameters, Value

FEWEST = 8
"""Configurations below which nothing is said: a forest fitted to fewer finds importance in noise."""


class NoImportance(ValueError):  # noqa: N818
    """Importances that these configurations can't tell; the message says why."""


def importances(
    trials: Sequence[tuple[Parameters, float]], space: Mapping[str, Parameter], *, seed: int = 0
) -> dict[str, float]:
    """The share of the objective's variance over the search space that each parameter accounts for by itself.

    fANOVA (Hutter et al. 2014) as Optuna has it: a random forest is fitted to the configurations, and its variance
    taken apart. With few configurations it is a hint.

    Args:
        trials: parameters and objective of each configuration.
        space: where each parameter was searched. One that never varied is left out.
        seed: of the forest.

    Returns:
        Shares that sum to 1, largest first.

    Raises:
        NoImportance: too few configurations, or nothing varies.
    """
    usable = [(found, value) for found, value in trials if space.keys() <= found.keys() and math.isfinite(value)]
    if not space:
        raise NoImportance("Nothing was searched.")
    if len(usable) < FEWEST:
        raise NoImportance(f"Too few configurations have a result: {len(usable)}. Importances need {FEWEST} or more.")
    varied = {name: p for name, p in space.items() if len({found[name] for found, _ in usable}) > 1}
    if not varied or len({value for _, value in usable}) < 2:
        raise NoImportance("Nothing varies: the configurations, or their results, are all the same.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    distributions = {name: _distribution(p, [found[name] for found, _ in usable]) for name, p in varied.items()}
    for found, value in usable:
        chosen = {name: found[name] for name in varied}
        study.add_trial(optuna.create_trial(params=chosen, distributions=distributions, value=value))
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed)))


def _distribution(parameter: Parameter, values: Sequence[Value]) -> BaseDistribution:
    """The parameter's range, made wide enough for all values."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(list(dict.fromkeys([*parameter.choices, *values])))
    numbers = [float(value) for value in values]
    return FloatDistribution(min(parameter.low, *numbers), max(parameter.high, *numbers), log=parameter.log)
