"""Names and numbers as the report writes them."""

from typing import Any

import pandas as pd

from tune.selection import MEAN_AUC, POOLED_AUC

UNKNOWN = "not recorded"
Interval = tuple[float, float] | None


def trial_name(number: int) -> str:
    """As everywhere: t007."""
    return f"t{number:03d}"


def counted(number: int, thing: str, things: str | None = None) -> str:
    """1 fold, 2 folds."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def known(value: Any) -> float | None:
    """None for what is missing."""
    return None if pd.isna(value) else float(value)


def ends(interval: Interval) -> str:
    """0.8123 to 0.9012."""
    return "undefined" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def objective_words(objective: str) -> str:
    """What is maximised, in words."""
    if objective == MEAN_AUC:
        return "mean AUC over tasks and folds"
    return "pooled AUC, mean over the tasks" if objective == POOLED_AUC else f"mean AUC of {objective} over the folds"
