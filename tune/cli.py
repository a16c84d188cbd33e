"""The `hilbert` command. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done; 1 a run failed; 2 the input was wrong, said in one message; 130 interrupted by Ctrl-C.

Heavy packages are imported by the commands that need them, so that `hilbert --help` answers at once.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hilbert.errors import HilbertError, InputError
from tune.options import make_parser

if TYPE_CHECKING:
    from tune.sweep import Outcome

WIDE = 240
"""Columns of a table that goes into a file or a pipe: nothing is cut."""
DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return COMMANDS[options.command](options)
    except InputError as error:
        print(f"hilbert: {error}", file=sys.stderr)
        return WRONG_INPUT
    except HilbertError as error:
        print(f"hilbert: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(
            "hilbert: interrupted; what is finished is kept, and the same command goes on from there", file=sys.stderr
        )
        return INTERRUPTED
    except BrokenPipeError:
        return DONE


def extract(options: argparse.Namespace) -> int:
    """`hilbert extract`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hilbert import extraction
    from hilbert.cohort import Cohort

    cohort = Cohort.load(options.cohort, check_audio=options.on_error == "fail")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("segments", total=None)
        store = extraction.extract(
            cohort,
            options.store,
            audio=options.audio,
            text=options.text,
            window=options.window,
            device=options.device,
            batch_size=options.batch_size,
            dtype=options.dtype,
            on_error=options.on_error,
            overwrite=options.overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for name in ("audio", "text"):
        part = getattr(store, name)
        if part is not None:
            print(f"{name}: {len(part.values)} segments of {len(store)} documents, {part.dim} features each")
    print(options.store)
    return DONE


def sweep(options: argparse.Namespace) -> int:
    """`hilbert sweep`."""
    from tune.study_file import load_study
    from tune.sweep import extended, run_sweep

    study = load_study(options.study, options.overrides)
    if options.extend is not None:
        study = extended(study, options.extend)
    outcome = run_sweep(study, uri=options.tracking_uri, hash_ids=options.hash_ids)
    if not outcome.complete:
        print("hilbert: stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return _unrecorded(study.study, outcome) or INTERRUPTED
    if outcome.unrecorded:
        return _unrecorded(study.study, outcome)
    _print_ranking(study.study, outcome.uri, csv=False)
    print(f"\nLook at it:  {outcome.look}", file=sys.stderr)
    return FAILED if outcome.failed else DONE


def sync(options: argparse.Namespace) -> int:
    """`hilbert sync`."""
    from tune.archive import Archive
    from tune.study_file import parse_study
    from tune.sweep import sync_study

    archive = Archive(options.storage / options.study)
    study = parse_study(archive.study_file(), source=str(archive.folder / "study_file.json"))
    outcome = sync_study(study, uri=options.tracking_uri, hash_ids=options.hash_ids)
    return _unrecorded(study.study, outcome)


def _unrecorded(study: str, outcome: "Outcome") -> int:
    """Says what could not be written to MLflow; the exit code."""
    if not outcome.unrecorded:
        return DONE
    print(
        f"hilbert: {len(outcome.unrecorded)} records could not be written to MLflow at {outcome.uri}: "
        f"{outcome.unrecorded[0]}; nothing is lost, 'hilbert sync {study}' or the same command writes them",
        file=sys.stderr,
    )
    return FAILED


def fit(options: argparse.Namespace) -> int:
    """`hilbert fit`."""
    from tune.single import fit_fold
    from tune.study_file import load_study

    study = load_study(options.study, options.overrides)
    return fit_fold(study, options.fold, output=options.output, console=Console(stderr=True))


def compare(options: argparse.Namespace) -> int:
    """`hilbert compare`."""
    from tune.tracking import tracking_uri

    return _print_ranking(options.study, tracking_uri(options.tracking_uri), csv=options.csv)


def ui(options: argparse.Namespace) -> int:
    """`hilbert ui`."""
    from tune.ui import ui as show

    return show(options.study, uri=options.tracking_uri, port=options.port, browser=options.browser)


def report(options: argparse.Namespace) -> int:
    """`hilbert report`."""
    from tune.report import write_report
    from tune.tracking import connect, tracking_uri

    output = options.output or Path(f"{options.study}-report.html")
    write_report(connect(tracking_uri(options.tracking_uri)), options.study, output)
    print(output)
    return DONE


def _print_ranking(study: str, uri: str, *, csv: bool) -> int:
    from tune.comparison import ranking, show
    from tune.tracking import connect, read_study

    found = read_study(connect(uri), study)
    if csv:
        ranking(found).to_csv(sys.stdout, index=False)
    else:
        console = Console()
        show(found, console if console.is_terminal else Console(width=WIDE))
    return DONE


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "extract": extract,
    "sweep": sweep,
    "sync": sync,
    "fit": fit,
    "compare": compare,
    "ui": ui,
    "report": report,
}


if __name__ == "__main__":
    sys.exit(main())
