"""How numbers and names are written for people."""

from collections.abc import Callable, Iterable

LOG = ".log10"


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def log_name(parameter: str) -> str:
    """Name of the parameter that holds the decimal logarithm of a log-scaled one."""
    return f"{parameter}{LOG}"


def with_error(value: float | None, error: float | None) -> str:
    """0.873 ± 0.012."""
    if value is None:
        return "undefined"
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def in_runs(numbers: Iterable[int], name: Callable[[int], str] = str) -> str:
    """`3, 5 to 12`: numbers in order, each by its name, three or more that follow each other as a run."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [[name(number) for number in run] for run in runs]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in shown)
