"""The `hilbert` command. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done; 1 a run failed; 2 the input was wrong, said in one message; 130 interrupted by Ctrl-C.

Heavy packages are imported by the commands that need them, so that `hilbert --help` answers at once.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # by `python -m`: nothing in this folder hides what is installed
    beside = sys.path.pop(0)
    from tune.shadowing import put_back

    put_back(beside)

import argparse
import dataclasses
import errno
import logging
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hilbert.errors import HilbertError, InputError, shown
from tune.options import DONE, FAILED, INTERRUPTED, WRONG_INPUT, make_parser
from tune.output import check_file, check_folder
from tune.shadowing import hidden
from tune.streams import for_people, for_programs
from tune.terminal import console, prepare_messages, results, tell

if TYPE_CHECKING:
    from tune.evidence import Client
    from tune.sweep import Outcome

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What the system says where nothing more can be written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    for_people()
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", category=FutureWarning)
    prepare_messages()
    try:
        return COMMANDS[options.command](options)
    except InputError as error:
        tell(f"hilbert: {error}")
        return WRONG_INPUT
    except HilbertError as error:
        tell(f"hilbert: {error}")
        return FAILED
    except KeyboardInterrupt:
        tell("hilbert: interrupted; what is finished is kept, and the same command goes on from there")
        return INTERRUPTED
    except BrokenPipeError:
        return DONE
    except OSError as error:
        if error.errno not in FULL:
            raise
        tell(f"hilbert: {error.filename or 'a file'} can't be written: {error.strerror}")
        return FAILED
    except Exception as error:
        if not (found := hidden()):
            raise
        reason = f"{type(error).__name__}: {error}"
        tell(f"hilbert: {reason}; {'; '.join(found)}: rename it, or take its folder out of PYTHONPATH")
        return WRONG_INPUT


def extract(options: argparse.Namespace) -> int:
    """`hilbert extract`."""
    from hilbert.cohort import Cohort
    from hilbert.columns import column_report
    from hilbert.remarks import summary
    from tune.bars import counted

    screen = console()
    names = ("audio", "text", "window", "device", "batch_size", "dtype", "on_error", "overwrite")
    given = {name: getattr(options, name) for name in names}
    if options.workers is None and options.gpus_per_encoder is not None:
        raise InputError("--gpus-per-encoder says how many GPUs each of several encoders has: it needs --workers")
    cohort = Cohort.load(options.cohort, check_audio=options.on_error == "fail", missing=options.missing)
    if columns := column_report(cohort.documents):
        tell(columns)
    with counted(screen, "segments") as report:
        if options.workers is None:
            from hilbert import extraction

            store = extraction.extract(cohort, options.store, progress=report, **given)
        else:
            from tune import extract as shared

            more = {"workers": options.workers, "gpus": options.gpus_per_encoder, "say": screen.print}
            store = shared.extract(cohort, options.store, progress=report, **given, **more)
    for name in ("audio", "text"):
        part = getattr(store, name)
        if part is not None:
            print(f"{name}: {len(part.values)} segments of {len(store)} documents, {part.dim} features each")
    if line := summary(store.manifest["extraction"] or {}):
        tell(line)
    with for_programs():
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
        tell("hilbert: stopped; what is finished is kept, and the same command goes on from there")
        return _unrecorded(study.study, outcome) or INTERRUPTED
    if outcome.unrecorded:
        return _unrecorded(study.study, outcome)
    _print_ranking(study.study, outcome.uri, recount=outcome.recount)
    tell(f"\nWhat its winner is worth:  {_compare_command(study.study, outcome.uri)}")
    tell(f"Look at it:  {outcome.look}")
    return FAILED if outcome.failed else DONE


def submit(options: argparse.Namespace) -> int:
    """`hilbert submit`."""
    from tune import submit as submission

    asked = submission.request(options)
    return submission.stop(asked) if options.stop else submission.submit(asked)


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
    tell(
        f"hilbert: {len(outcome.unrecorded)} records could not be written to MLflow at {outcome.uri}: "
        f"{outcome.unrecorded[0]}; nothing is lost, 'hilbert sync {study}' or the same command writes them"
    )
    return FAILED


def fit(options: argparse.Namespace) -> int:
    """`hilbert fit`."""
    from tune.single import fit_fold
    from tune.study_file import load_study

    if options.output is not None:
        check_folder(options.output)
    study = load_study(options.study, options.overrides)
    with for_programs():
        return fit_fold(study, options.fold, output=options.output, console=console())


def compare(options: argparse.Namespace) -> int:
    """`hilbert compare`."""
    from tune.side_by_side import check_picture
    from tune.tracking import connect_to_read, read_study, tracking_uri

    if options.output and options.pair:
        check_picture(options.output)
    client = connect_to_read(tracking_uri(options.tracking_uri), f"study {shown(options.study)}")
    if options.pair:
        return _compare_pair(client, options)
    if options.output:
        raise InputError("--output names the picture of two configurations: hilbert compare STUDY A B --output FILE")
    from hilbert.spreadsheets import csv_text
    from tune.comparison import ranking, show, show_winner, with_tests
    from tune.contest import contest
    from tune.evidence import gather_evidence

    study, screen = read_study(client, options.study), results()
    try:
        evidence = gather_evidence(client, options.study)
        study = evidence.study  # of an older version's record: what counts
    except InputError as error:
        tell(f"hilbert: nothing can be said of the winner without its luck: {error}")
        evidence = None
    if not options.csv:
        show(study, screen)
    if options.csv:
        with for_programs():
            print(csv_text(with_tests(ranking(study), contest(evidence) if evidence else None)), end="")
    elif evidence:
        show_winner(evidence, screen)
    return DONE


def _compare_pair(client: "Client", options: argparse.Namespace) -> int:
    """`hilbert compare STUDY A B`."""
    from hilbert.spreadsheets import csv_text
    from tune.contest import pair
    from tune.evidence import gather_evidence
    from tune.side_by_side import draw, fold_table, show_pair, two

    evidence = gather_evidence(client, options.study)
    a, b = two(evidence, options.pair)
    found = pair(evidence, a, b)
    output = options.output or Path(f"{options.study}-t{a:03d}-t{b:03d}.png")
    if options.output or not options.csv:
        draw(found, evidence, output)
        tell(f"Picture: {output}")
    if options.csv:
        with for_programs():
            print(csv_text(fold_table(found)), end="")
    else:
        show_pair(found, evidence, results())
    return DONE


def select(options: argparse.Namespace) -> int:
    """`hilbert select`."""
    from tune.choice import by_hand, choose, record_choice, show_choice
    from tune.evidence import gather_evidence
    from tune.tracking import connect_to_read, read_study, tracking_uri

    if options.because is not None and options.trial is None:
        raise InputError("--because says why a configuration was chosen by hand: it needs --trial N")
    client = connect_to_read(tracking_uri(options.tracking_uri), f"study {shown(options.study)}")
    if options.trial is not None:
        decision = by_hand(read_study(client, options.study), options.trial, because=options.because or "")
    else:
        decision = choose(gather_evidence(client, options.study), options.rule or "one-se")
    show_choice(decision, console())
    record_choice(client, options.study, decision.choice)
    print(f"t{decision.choice.trial:03d}")
    return DONE


def release(options: argparse.Namespace) -> int:
    """`hilbert release`."""
    from tune.release import Request
    from tune.release import release as make_release
    from tune.tracking import connect_to_read, tracking_uri

    names = [field.name for field in dataclasses.fields(Request)]
    request = Request(**{name: getattr(options, name) for name in names})
    if request.output is not None:
        check_folder(request.output)
    found = make_release(
        connect_to_read(tracking_uri(options.tracking_uri), f"study {shown(options.study)}"), request, console()
    )
    with for_programs():
        print(found.version.uri)
        print(found.folder)
    return DONE


def predict(options: argparse.Namespace) -> int:
    """`hilbert predict`."""
    from tune.predict import Request
    from tune.predict import predict as write_predictions

    names = [field.name for field in dataclasses.fields(Request)]
    request = Request(**{name: getattr(options, name) for name in names})
    paths = write_predictions(request, uri=options.tracking_uri, console=console())
    with for_programs():
        for path in paths:
            print(path)
    return DONE


def ui(options: argparse.Namespace) -> int:
    """`hilbert ui`."""
    from tune.ui import ui as show

    with for_programs():
        return show(options.study, uri=options.tracking_uri, port=options.port, browser=options.browser)


def report(options: argparse.Namespace) -> int:
    """`hilbert report`."""
    from tune.report import write_report
    from tune.tracking import connect_to_read, tracking_uri

    output = options.output or Path(f"{options.study}-report.html")
    check_file(output)
    write_report(
        connect_to_read(tracking_uri(options.tracking_uri), f"study {shown(options.study)}"), options.study, output
    )
    with for_programs():
        print(output)
    return DONE


def _print_ranking(study: str, uri: str, *, recount: bool) -> None:
    """Prints the ranking; `recount`: an older version may have recorded AUCs that don't count."""
    from tune.comparison import show
    from tune.evidence import gather_evidence
    from tune.tracking import connect, read_study

    client = connect(uri)
    found = read_study(client, study)
    if recount:
        with suppress(InputError):
            found = gather_evidence(client, study).study
    show(found, results())


def _compare_command(study: str, uri: str) -> str:
    from tune.tracking import elsewhere

    return shlex.join(["hilbert", "compare", study, *elsewhere(uri)])


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "extract": extract,
    "sweep": sweep,
    "submit": submit,
    "sync": sync,
    "fit": fit,
    "compare": compare,
    "select": select,
    "release": release,
    "predict": predict,
    "ui": ui,
    "report": report,
}


if __name__ == "__main__":
    sys.exit(main())
