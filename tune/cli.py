"""The `hilbert` command. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done; 1 a run failed; 2 the input was wrong, said in one message; 130 interrupted by Ctrl-C.

Heavy packages are imported by the commands that need them, so that `hilbert --help` answers at once.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hilbert import __version__
from hilbert.errors import HilbertError, InputError

if TYPE_CHECKING:
    from tune.sweep import Outcome

WIDE = 240
"""Columns of a table that goes into a file or a pipe: nothing is cut."""
DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

STUDY_HELP = "study file (YAML): data, tasks, folds, what is searched"
SET_HELP = "override a value of the study file by its dotted name, as in train.epochs=5; may be repeated"
URI_HELP = "MLflow server or store (default: $MLFLOW_TRACKING_URI, the study file's, else sqlite:///mlflow.db here)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return int(options.run(options))
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


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="hilbert",
        description="One embedding per person from long recordings and their transcripts: features, cross-validated "
        "search, comparison.",
    )
    parser.add_argument("--version", action="version", version=f"hilbert {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_extract(commands)
    _add_sweep(commands)
    _add_sync(commands)
    _add_fit(commands)
    _add_compare(commands)
    _add_ui(commands)
    _add_report(commands)
    return parser


Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_extract(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "extract",
        help="frozen encoders over a cohort: a feature store",
        description="Encodes every segment of a cohort once. An interrupted extraction goes on where it stopped.",
        epilog="Encoders: hf:MODEL (a hub id or a local folder; ?layer=6&pooling=mean chooses a layer), "
        "opensmile:SET (such as opensmile:eGeMAPSv02).",
    )
    command.add_argument("cohort", type=Path, metavar="COHORT", help="folder with documents.csv, segments.csv, audio")
    command.add_argument("store", type=Path, metavar="STORE", help="folder of the feature store to be made")
    command.add_argument("--audio", metavar="ENCODER", help="speech encoder")
    command.add_argument("--text", metavar="ENCODER", help="text encoder")
    command.add_argument("--window", type=float, metavar="SECONDS", help="cut recordings without segment times")
    command.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")
    command.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="segments encoded together (%(default)s)"
    )
    command.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the stored numbers")
    command.add_argument(
        "--on-error", choices=("fail", "skip"), default="fail", help="what a damaged recording does (%(default)s)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace a store of other content")
    command.set_defaults(run=extract)


def _add_study(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", type=Path, metavar="STUDY.yaml", help=STUDY_HELP)
    command.add_argument(
        "--set", dest="overrides", metavar="key=value", nargs="+", action="extend", default=[], help=SET_HELP
    )


def _add_recording(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)
    command.add_argument("--hash-ids", action="store_true", help="replace document ids in artifacts by keyed hashes")


def _add_recorded_study(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", metavar="STUDY", help="name of the study")
    command.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)


def _add_sweep(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "sweep",
        help="search configurations, each on every fold",
        description="Runs a study: Optuna proposes configurations, Ray Tune runs their fold jobs, MLflow records. "
        "The same command goes on with an interrupted study, and with trials=N raised extends a finished one.",
    )
    _add_study(command)
    _add_recording(command)
    command.add_argument("--extend", type=int, metavar="N", help="try N configurations more than there are by now")
    command.set_defaults(run=sweep)


def _add_sync(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "sync",
        help="write finished fold jobs to MLflow that it has missed",
        description="Writes to MLflow what a study has finished and MLflow has not, as when its server was down or its "
        "database was lost. Nothing is trained.",
    )
    command.add_argument("study", metavar="STUDY", help="name of the study")
    command.add_argument("--storage", type=Path, default=Path("studies"), help="folder of the studies (%(default)s)")
    _add_recording(command)
    command.set_defaults(run=sync)


def _add_fit(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "fit",
        help="train the study file's own values on one fold, without Ray",
        description="Trains one configuration, the study file's values outside of `search`, on one fold.",
    )
    _add_study(command)
    command.add_argument("--fold", type=int, required=True, metavar="K", help="number of the fold, from 0")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="save the model and its held-out predictions")
    command.set_defaults(run=fit)


def _add_compare(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "compare",
        help="rank the configurations of a study",
        description="Ranks a study's configurations: mean AUC over folds with its standard error, folds that counted, "
        "AUC of the pooled held-out predictions, for every task. The winner of many looks better than it is.",
    )
    _add_recorded_study(command)
    command.add_argument("--csv", action="store_true", help="CSV on stdout, columns named like the MLflow metrics")
    command.set_defaults(run=compare)


def _add_ui(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "ui",
        help="open a study's leaderboard in the browser",
        description="Opens a study's trials, best first, in MLflow's pages. For a store without a server one is "
        "started, on this computer alone, and ends with this command. The link goes to stdout.",
    )
    _add_recorded_study(command)
    command.add_argument("--port", type=int, metavar="N", help="of the server that is started (5000, or a free one)")
    command.add_argument("--no-browser", dest="browser", action="store_false", help="print the link alone")
    command.set_defaults(run=ui)


def _add_report(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "report",
        help="one HTML file that tells all of a study",
        description="Writes one HTML file that needs no network: leaderboard, folds, parameters, the winner's curves, "
        "cost, what was left out and why, data, splits, versions.",
    )
    _add_recorded_study(command)
    command.add_argument("--output", type=Path, metavar="FILE", help="the file to write (STUDY-report.html)")
    command.set_defaults(run=report)


# ---- commands --------------------------------------------------------------------------------------------------------


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


if __name__ == "__main__":
    sys.exit(main())
