"""Proposals: Optuna's TPE, asked one configuration at a time and told the mean over its folds.

The proposals and what became of them lie in a journal file, so that a study can go on in another process. A
proposal depends on the seed, its number and the trials before it alone: the sampler is made anew, with a seed of its
own, for every proposal, so that an interrupted search goes on as an uninterrupted one would have.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pydantic import ValidationError

from hilbert.config import FitConfig
from hilbert.errors import StudyError
from tune.space import Choices, Parameter, Parameters, Study, configuration_hash

MOST_ATTEMPTS = 200


@dataclass(frozen=True)
class Proposal:
    """One configuration to try.

    Attributes:
        number: from 0, in the order of the proposals; numbers of impossible combinations are left out.
        parameters: the searched values.
        config: the whole configuration.
        store: name of its feature store.
        configuration: hash of configuration and store.
    """

    number: int
    parameters: Parameters
    config: FitConfig
    store: str
    configuration: str


class Search:
    """The proposals of one study, kept in a journal file."""

    def __init__(self, study: Study, journal: Path) -> None:
        self.study = study
        self.space = {name: _distribution(study, name, value) for name, value in study.parameters.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        self.optuna = optuna.create_study(
            storage=storage, study_name=study.study, direction="maximize", load_if_exists=True
        )
        if not self._trials() and study.search and len(study.defaults) == len(study.search):
            self.optuna.enqueue_trial(dict(study.defaults))

    def proposals(self) -> list[Proposal]:
        """All proposals so far, of earlier processes too, but for impossible combinations."""
        return [self._proposal(t.number, t.params) for t in self._trials() if _is_real(t)]

    def told(self, number: int) -> bool:
        """Whether it has been said what became of a proposal."""
        return self._trials()[number].state.is_finished()

    def value(self, number: int) -> float | None:
        """What has been told of a proposal; None for nothing, and for a failure."""
        trial = self._trials()[number]
        return trial.value if trial.state == TrialState.COMPLETE else None

    def ask(self) -> Proposal:
        """The next proposal.

        The first is the study file's own values, where all of them are within the search.

        Raises:
            StudyError: the searched values don't go together, however they are drawn.
        """
        for _ in range(MOST_ATTEMPTS):
            self.optuna.sampler = self._sampler(sum(t.state != TrialState.WAITING for t in self._trials()))
            trial = self.optuna.ask(self.space)
            try:
                return self._proposal(trial.number, trial.params)
            except ValidationError as error:
                trial.set_user_attr("impossible", error.errors()[0]["msg"])
                self.optuna.tell(trial.number, state=TrialState.FAIL)
                reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise StudyError(f"search: {MOST_ATTEMPTS} proposals in a row were impossible combinations: {reason}")

    def tell(self, number: int, value: float | None) -> None:
        """Says what became of a proposal.

        Args:
            number: of the proposal.
            value: its objective, or an estimate of it where racing gave it up; None where a fold failed or the
                objective is undefined.
        """
        if value is None or not math.isfinite(value):
            self.optuna.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self.optuna.tell(number, value, skip_if_finished=True)

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self.study.seed, number]).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def _proposal(self, number: int, parameters: Parameters) -> Proposal:
        config, store = self.study.configuration(parameters), self.study.store(parameters)
        return Proposal(number, dict(parameters), config, store, configuration_hash(config, store))


def _is_real(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state != TrialState.WAITING and "impossible" not in trial.user_attrs


def _distribution(study: Study, name: str, parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.choices)
    if study.is_whole(name):
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.log)
