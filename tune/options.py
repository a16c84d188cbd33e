"""The options of the `hilbert` command: what `--help` shows. Imports nothing heavy."""

import argparse
from pathlib import Path

from hilbert import __version__

STUDY_HELP = "study file (YAML): data, tasks, folds, what is searched"
SET_HELP = "override a value of the study file by its dotted name, as in train.epochs=5; may be repeated"
URI_HELP = "MLflow server or store (default: $MLFLOW_TRACKING_URI, the study file's, else sqlite:///mlflow.db here)"


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="hilbert",
        description="One embedding per person from long recordings and their transcripts: features, cross-validated "
        "search, comparison.",
    )
    parser.add_argument("--version", action="version", version=f"hilbert {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
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


def _add_fit(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "fit",
        help="train the study file's own values on one fold, without Ray",
        description="Trains one configuration, the study file's values outside of `search`, on one fold.",
    )
    _add_study(command)
    command.add_argument("--fold", type=int, required=True, metavar="K", help="number of the fold, from 0")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="save the model and its held-out predictions")


def _add_compare(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "compare",
        help="rank the configurations of a study",
        description="Ranks a study's configurations: mean AUC over folds with its standard error, folds that counted, "
        "AUC of the pooled held-out predictions, for every task. The winner of many looks better than it is.",
    )
    _add_recorded_study(command)
    command.add_argument("--csv", action="store_true", help="CSV on stdout, columns named like the MLflow metrics")


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


def _add_report(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "report",
        help="one HTML file that tells all of a study",
        description="Writes one HTML file that needs no network: leaderboard, folds, parameters, the winner's curves, "
        "cost, what was left out and why, data, splits, versions.",
    )
    _add_recorded_study(command)
    command.add_argument("--output", type=Path, metavar="FILE", help="the file to write (STUDY-report.html)")
