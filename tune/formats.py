"""How numbers and names are written for people."""

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
