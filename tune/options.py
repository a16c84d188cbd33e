"""The options and exit codes of the `hilbert` command: what `--help` shows. Imports nothing heavy."""

import argparse
from pathlib import Path

from hilbert import __version__
from hilbert.errors import shown

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

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
    _add_submit(commands)
    _add_sync(commands)
    _add_fit(commands)
    _add_compare(commands)
    _add_select(commands)
    _add_release(commands)
    _add_predict(commands)
    _add_ui(commands)
    _add_report(commands)
    return parser


Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_extract(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "extract",
        help="frozen encoders over a cohort: a feature store",
        description="Encodes every segment of a cohort once. An interrupted extraction goes on where it stopped. With "
        "--workers several encoders share the work: on the Ray cluster that RAY_ADDRESS or 'ray start' names, or here.",
        epilog="Encoders: hf:MODEL (a hub id or a local folder; ?layer=6&pooling=mean chooses a layer), "
        "opensmile:SET (such as opensmile:eGeMAPSv02).",
    )
    command.add_argument("cohort", type=Path, metavar="COHORT", help="folder with documents.csv, segments.csv, audio")
    command.add_argument("store", type=_folder, metavar="STORE", help="folder of the feature store to be made")
    command.add_argument("--audio", metavar="ENCODER", help="speech encoder")
    command.add_argument("--text", metavar="ENCODER", help="text encoder")
    command.add_argument("--window", type=float, metavar="SECONDS", help="cut recordings without segment times")
    _add_encoding(command)
    command.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the stored numbers")
    command.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what damaged or impossible sound does (%(default)s)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace a store of other content")
    command.add_argument(
        "--missing",
        metavar="CODE",
        nargs="+",
        action="extend",
        default=[],
        help="further codes for a missing label or group in documents.csv, as in --missing -99 unknown",
    )
    command.add_argument(
        "--workers",
        type=_workers,
        metavar="N|all",
        help="encoder processes at most, or all that the cluster or this computer has room for (default: one, here, "
        "without Ray)",
    )
    command.add_argument(
        "--gpus-per-encoder",
        type=float,
        metavar="N",
        help="with --workers: of each process, 0.5 for two on one GPU (default: 1 if there are GPUs, else 0)",
    )


def _workers(text: str) -> int | str:
    if text == "all":
        return text
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{shown(text)}: give a number of 1 or more, or all")


def _folder(text: str) -> Path:
    """A folder to write features to."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text}: features are written to a folder; upload it then, as by 'aws s3 sync FOLDER {text}'"
        )
    return Path(text)


def _add_encoding(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", default="auto", help="of the encoders: auto (a GPU if there is one), cpu, cuda, cuda:1, mps"
    )
    command.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="segments encoded together (%(default)s)"
    )


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


def _add_submit(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "submit",
        help="run a sweep on a cluster, which goes on when this computer is closed",
        description="Brings a cluster up (ray up), runs 'hilbert sweep' there as a job, and follows it. Ctrl-C leaves "
        "it running. The same command follows it again, and goes on with a sweep that was interrupted. Ends with the "
        "sweep's exit code.",
    )
    _add_study(command)
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--cluster", type=Path, metavar="FILE", help="the cluster's file, as 'ray up' takes it")
    where.add_argument("--address", metavar="URL", help="job server of a running cluster, as in http://127.0.0.1:8265")
    command.add_argument("--folder", metavar="PATH", help="this folder on the cluster (where file_mounts brings it)")
    command.add_argument("--no-up", dest="up", action="store_false", help="the cluster runs: no 'ray up'")
    command.add_argument(
        "--wait", type=float, default=15, metavar="MINUTES", help="for the first node to join (%(default)s)"
    )
    command.add_argument("--stop", action="store_true", help="end the study's sweep; what is finished is kept")
    _add_recording(command)


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
        help="rank the configurations of a study, or compare two of them",
        description="Ranks a study's configurations: mean AUC over folds with its standard error, folds that counted, "
        "AUC of the pooled held-out predictions, for every task. Then the winner's AUC without the luck of having been "
        "picked (BBC-CV), and who can't be told from it. With A and B these two, fold by fold.",
    )
    _add_recorded_study(command)
    command.add_argument("pair", metavar="A B", nargs="*", help="two configurations by their numbers, as in 14 3")
    command.add_argument("--csv", action="store_true", help="CSV on stdout, columns named like the MLflow metrics")
    command.add_argument("--output", type=Path, metavar="FILE", help="picture of A and B (STUDY-t014-t003.png)")


def _add_select(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "select",
        help="choose a configuration of a study, by a rule or by hand",
        description="Chooses a complete configuration and records the choice with its reasons in MLflow, in place of "
        "an earlier one. Its name goes to stdout, what it was chosen by to stderr.",
        epilog="Rules. best: the highest objective. one-se: the simplest that is not lower than the best by more than "
        "one standard error. pareto: of those that no other one equals or beats on every task, the one that loses "
        "least on its worst task.",
    )
    _add_recorded_study(command)
    how = command.add_mutually_exclusive_group()
    how.add_argument("--rule", choices=("best", "one-se", "pareto"), help="how to choose (one-se)")
    how.add_argument("--trial", metavar="N", help="choose this configuration")
    command.add_argument("--because", metavar="TEXT", help="why, with --trial")


def _add_release(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "release",
        help="make a study's chosen configuration a model that others can load",
        description="Trains the chosen configuration for good, calibrates it on held-out predictions, writes a folder "
        "with its model card, and registers it in MLflow as the champion of its name. Run it where the sweep was run. "
        "Prints the model's address and its folder. Interrupted, the registry is as it was.",
    )
    _add_recorded_study(command)
    command.add_argument("--name", required=True, metavar="NAME", help="of the registered model")
    command.add_argument("--trial", metavar="N", help="this configuration (what 'hilbert select' chose, else the best)")
    command.add_argument(
        "--how",
        choices=("refit", "ensemble"),
        default="refit",
        help="one model of all documents, or all folds' models together (%(default)s)",
    )
    command.add_argument(
        "--require-better",
        action="store_true",
        help="refuse unless it is shown to be better than the champion, on the same folds",
    )
    command.add_argument(
        "--calibration",
        choices=("auto", "temperature", "isotonic", "none"),
        default="auto",
        help="of the probabilities; auto takes what helps most on held-out predictions (%(default)s)",
    )
    command.add_argument("--features", metavar="STORE", help="the feature store, if not where the study file says")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="of the release (releases/NAME/VERSION)")
    command.add_argument("--licence", metavar="TEXT", help="of the model, for its card")
    command.add_argument("--intended-use", metavar="TEXT", help="of the model, for its card")


def _add_predict(commands: Commands) -> None:  # type: ignore[valid-type]
    command = commands.add_parser(  # type: ignore[attr-defined]
        "predict",
        help="predict new people with a released model",
        description="Predicts every document of a cohort, which is encoded by the model's encoders first, or of a "
        "feature store that they made: calibrated probabilities by class. Prints the files that it writes.",
    )
    command.add_argument(
        "model", metavar="MODEL", help="models:/NAME@champion, models:/NAME/VERSION, runs:/RUN, or a release's folder"
    )
    command.add_argument(
        "data", metavar="COHORT-or-STORE", help="folder of a cohort or of a feature store, or a store's s3:// address"
    )
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help="table to write: .csv or .parquet")
    command.add_argument("--embeddings", action="store_true", help="also FILE.embeddings: joint, audio, text")
    command.add_argument(
        "--explain",
        action="store_true",
        help="also FILE.segments, the attention to every segment, and FILE.experts, modalities and experts by document",
    )
    command.add_argument("--audio", metavar="ENCODER", help="where the speech encoder lies now, if elsewhere")
    command.add_argument("--text", metavar="ENCODER", help="where the text encoder lies now, if elsewhere")
    command.add_argument("--store", type=_folder, metavar="FOLDER", help="keep a cohort's features here")
    _add_encoding(command)
    command.add_argument("--overwrite", action="store_true", help="replace tables that are there")
    command.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)


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
