"""How many configurations a winner was picked from, what became of the others, and what may be published of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tune.evidence import Evidence, named


@dataclass(frozen=True)
class Tried:
    """The distinct configurations of a study, but those that are looked at.

    Attributes:
        choices: how many are looked at: the winner was picked from these.
        failed: numbers of those in which a fold failed.
        missing: numbers of those whose predictions can't be had: they took part in the choice.
        unfinished: numbers of those of which more is to come, or which were stopped.
    """

    choices: int
    failed: Sequence[int] = ()
    missing: Sequence[int] = ()
    unfinished: Sequence[int] = ()

    @property
    def others(self) -> str:
        """What became of those that aren't looked at, in words; empty where there are none."""
        told = {
            "a fold failed in": self.failed,
            "predictions can't be had of": self.missing,
            "not finished:": self.unfinished,
        }
        return "; ".join(f"{words} {named(numbers)}" for words, numbers in told.items() if numbers)

    def without_choice(self, value: str) -> str:
        """What may be published of the only configuration that is looked at; `value` is its AUC."""
        if not self.others:
            return f"A single configuration was tried: nothing was picked, and {value}, pooled, can be published."
        if self.missing:
            return (
                f"One configuration alone can be looked at ({self.others}). It was picked among these, and how much of"
                f" {value}, pooled, is luck can't be told: don't publish it as the AUC to expect."
            )
        return (
            f"No other configuration could be chosen ({self.others}): nothing was picked, and {value}, pooled, can be"
            " published."
        )

    @property
    def caution(self) -> str:
        """What else to say of a number that allows for the choice among those that are looked at."""
        if not self.missing:
            return ""
        who = named(self.missing)
        return f" Others took part in the choice (predictions can't be had of {who}): it may still be too high."


def tried(evidence: Evidence) -> Tried:
    """What became of a study's configurations, each counted once."""
    trials = evidence.study.trials
    first = trials[trials["repeats"].isna()] if "repeats" in trials else trials
    looked_at = {evidence.trials[row] for row in evidence.choosable}
    rest = first[~first["trial"].isin(looked_at)]
    failed = rest["failed_folds"].ne("")
    missing = rest["trial"].isin(list(evidence.missing)) & ~failed
    parts = (rest[failed], rest[missing], rest[~failed & ~missing])
    return Tried(len(looked_at), *([int(number) for number in part["trial"]] for part in parts))
