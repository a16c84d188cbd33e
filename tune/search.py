"""Proposals: Optuna's TPE, asked one configuration at a time and told the mean over its folds.

The proposals and what became of them lie in a journal file, so that a study can go on in another process. A
proposal depends on the seed, its number and the trials before it alone: the sampler is made anew, with a seed of its
own, for every proposal, so that an interrupted search goes on as an uninterrupted one would have.
"""

import math
from collections.abc import Container, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pydantic import ValidationError

from hilbert.config import FitConfig
from hilbert.errors import StudyError, shown
from tune.combinations import combinations
from tune.journal import CREATE_TRIAL, sealed
from tune.space import Choices, Parameter, Parameters, Study, configuration_hash

MOST_ATTEMPTS = 200
MOST_REPEATED = 10
"""Draws of configurations that have been proposed, before one of those that are left is taken."""
REMEDY = "copy it from a backup, or give the study another name (study: ...)"


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
    """The proposals of one study, kept in a journal file.

    Attributes:
        proposals: all so far, of earlier processes too, but for impossible combinations. Older versions proposed some
            configurations twice.
        told: what has been told of proposals by their numbers; None for a failure.
        mended: what came of proposals that were told as failed, since their failed jobs have run again.
    """

    def __init__(self, study: Study, journal: Path) -> None:
        self.study = study
        self.space = {name: _distribution(study, name, value) for name, value in study.parameters.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.mended: dict[int, float] = {}
        try:
            storage = JournalStorage(SealedJournal(journal))
            others = [found.study_name for found in storage.get_all_studies() if found.study_name != study.study]
            self.optuna = optuna.create_study(
                storage=storage, study_name=study.study, direction="maximize", load_if_exists=True
            )
            self.proposals = [self._proposal(t.number, t.params) for t in self._trials() if _is_real(t)]
            self.told = {t.number: t.value for t in self._trials() if t.state.is_finished()}
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
            raise StudyError(
                f"{journal}: damaged, not the proposals of this study ({shown(error)}); {REMEDY}"
            ) from None
        if others:
            raise StudyError(f"{journal}: it is the journal of study {shown(others[0])}; {REMEDY}")
        self.configurations = {proposal.configuration for proposal in self.proposals}

    def ask(self, estimates: Mapping[int, float] | None = None) -> Proposal | None:
        """The next proposal, a configuration that hasn't been proposed; None where the search is used up.

        The first is the study file's own values, where all of them are within the search; of several feature stores
        each has its own first proposal, in the order of their names.

        Args:
            estimates: what the objective of proposals is thought to be that aren't told yet, or were told too early to
                be exact. Without one, TPE takes a proposal that isn't told for a bad one, so that workers spread; the
                promising run longest under racing, and would keep it from where they are.

        Raises:
            StudyError: the searched values don't go together, however they are drawn.
        """
        reason = ""
        for _ in range(MOST_ATTEMPTS):
            number, parameters = len(self._trials()), self._new(estimates or {})
            if parameters is None:
                return None
            try:
                proposal = self._proposal(number, parameters)
            except ValidationError as error:
                reason = str(error.errors()[0]["msg"])
                self._note(parameters, TrialState.FAIL, impossible=reason)
                continue
            self._note(parameters, TrialState.RUNNING)
            self.proposals.append(proposal)
            self.configurations.add(proposal.configuration)
            return proposal
        reason = reason.removeprefix("Value error, ")
        raise StudyError(f"search: {MOST_ATTEMPTS} proposals in a row were impossible combinations: {reason}")

    def _new(self, estimates: Mapping[int, float]) -> Parameters | None:
        """Parameters that haven't been proposed: drawn, or where that only repeats, any that are left; None without.

        Of a search too large to be listed the last draw is taken, repeated or not.
        """
        if self._is_used_up():
            return None
        for attempt in range(MOST_REPEATED):
            parameters = self._drawn(estimates, attempt)
            if self._hash(parameters) not in self.configurations:
                return parameters
        rest = self._rest
        if rest is None:
            return parameters
        if not rest:
            return None
        chosen = np.random.default_rng([self.study.seed, len(self._trials())]).integers(len(rest))
        return rest[chosen]

    def _is_used_up(self) -> bool:
        """Whether nothing is left to propose, as far as that is known without listing what is possible."""
        some_are_impossible = len(self._trials()) > len(self.proposals)
        everything = self._combinations is not None and len(self.configurations) >= len(self._combinations)
        return (some_are_impossible or everything) and self._rest == []

    @property
    def _rest(self) -> list[Parameters] | None:
        """The possible combinations that haven't been proposed; None where they can't be listed."""
        if self._possible is None:
            return None
        return [parameters for name, parameters in self._possible.items() if name not in self.configurations]

    @cached_property
    def _possible(self) -> dict[str, Parameters] | None:
        """All combinations that are possible, by the hashes of their configurations."""
        if self._combinations is None:
            return None
        return {name: found for found in self._combinations if (name := self._hash(found)) is not None}

    @cached_property
    def _combinations(self) -> list[Parameters] | None:
        return combinations(self.study)

    def _hash(self, parameters: Parameters) -> str | None:
        """Hash of the configuration; None where it is impossible."""
        try:
            return self._proposal(0, parameters).configuration
        except ValidationError:
            return None

    def _drawn(self, estimates: Mapping[int, float], attempt: int) -> Parameters:
        """Parameters of the next proposal, drawn by TPE in a view of the study that knows the estimates."""
        trials, firsts = self._trials(), self.study.firsts
        if len(trials) < len(firsts) and not attempt:
            return firsts[len(trials)]
        words = [self.study.seed, len(trials), *([attempt] if attempt else [])]
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        past = [_estimated(trial, estimates.get(trial.number), self.mended.get(trial.number)) for trial in trials]
        view = optuna.create_study(storage=Past(past), direction="maximize", sampler=sampler)
        return dict(view.ask(self.space).params)

    def _note(self, parameters: Parameters, state: TrialState, **attributes: str) -> None:
        """Writes a proposal to the journal, in one line: there is never half a proposal."""
        trial = optuna.create_trial(
            params=dict(parameters), distributions=self.space, state=state, user_attrs=attributes
        )
        self.optuna.add_trial(trial)

    def tell(self, number: int, value: float | None) -> None:
        """Says what became of a proposal; the first word counts, but for that it failed.

        That is final in Optuna's journal: what came of it later is known here alone, and must be told every time.

        Args:
            number: of the proposal.
            value: its objective, or an estimate of it where racing gave it up; None where a fold failed or the
                objective is undefined.
        """
        value = value if value is not None and math.isfinite(value) else None
        if number in self.told:
            if self.told[number] is None and value is not None:
                self.mended[number] = value
            return
        self.told[number] = value
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.optuna.tell(number, value, state=state, skip_if_finished=True)

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _proposal(self, number: int, parameters: Parameters) -> Proposal:
        config, store = self.study.configuration(parameters), self.study.store(parameters)
        return Proposal(number, dict(parameters), config, store, configuration_hash(config, store))


class SealedJournal(JournalFileBackend):
    """Optuna's journal in a file, whose lines can be checked: see `tune.journal`. One process writes it at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        with path.open("rb") as file:
            self.proposals = sum(line.startswith(b'{"op_code":%d,' % CREATE_TRIAL) for line in file)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends operations, each with its checksum."""
        lines = []
        for log in logs:
            is_proposal = log["op_code"] == CREATE_TRIAL
            lines.append(sealed(log, number=self.proposals if is_proposal else None))
            self.proposals += is_proposal
        super().append_logs(lines)


class Past(InMemoryStorage):
    """Storage of a study in memory that has these trials already, and doesn't copy them.

    `optuna.Study.add_trials` copies every value of each: with 1,000 trials four fifths of a proposal's time.
    """

    def __init__(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        super().__init__()
        self.past = trials

    def create_new_trial(self, study_id: int, template_trial: optuna.trial.FrozenTrial | None = None) -> int:
        """One more, numbered after those of the past."""
        created = super().create_new_trial(study_id, template_trial)
        self.get_trial(created).number += len(self.past)
        return created

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[optuna.trial.FrozenTrial]:
        """Those of the past, and then the others."""
        known = [trial for trial in self.past if states is None or trial.state in states]
        return known + super().get_all_trials(study_id, deepcopy, states)


def _is_real(trial: optuna.trial.FrozenTrial) -> bool:
    return "impossible" not in trial.user_attrs


def _estimated(trial: optuna.trial.FrozenTrial, value: float | None, mended: float | None) -> optuna.trial.FrozenTrial:
    """A trial as if it had been told `value`; one that failed stays so, unless it was mended."""
    if trial.state == TrialState.FAIL:
        value = mended
    if value is None:
        return trial
    known = copy(trial)
    known.state, known.value = TrialState.COMPLETE, value
    return known


def _distribution(study: Study, name: str, parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.choices)
    if study.is_whole(name):
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.log)
