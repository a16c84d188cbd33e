"""Locales without UTF-8: tables fall back to ASCII, CSV and paths stay what they are."""

import csv
import errno
import io
import sys

import pytest

from tune.streams import for_people, for_programs


@pytest.fixture
def ascii_out(monkeypatch):
    """What makes stdout and stderr ASCII, and returns what reads what came out of them."""

    def use():
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)

        def written(name="stdout"):
            streams[name].flush()
            return streams[name].buffer.getvalue()

        return written

    return use


def test_what_people_read_becomes_ascii_and_two_names_never_the_same(ascii_out):
    written = ascii_out()
    for_people()
    print("0.71 ± 0.02 → done │ é è 中")
    print("…", file=sys.stderr)
    assert written() == rb"0.71 +- 0.02 -> done | \xe9 \xe8 \u4e2d" + b"\n"
    assert written("stderr") == b"...\n"


def test_what_programs_read_is_utf_8_and_the_stream_is_then_as_before(ascii_out):
    written = ascii_out()
    for_people()
    with for_programs():
        print("é,\udcff")  # a name of a file that is no UTF-8
    print("é")
    assert written() == "é,".encode() + b"\xff\n" + rb"\xe9" + b"\n"


def test_a_stream_that_is_no_file_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    for_people()
    with for_programs():
        print("é")
    assert sys.stdout.getvalue() == "é\n"


def test_the_table_of_a_study_under_ascii(quick_sweep, ascii_out, monkeypatch):
    from tune.cli import main

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(quick_sweep.folder)
    written = ascii_out()
    assert main(["compare", "quick"]) == 0
    assert b"+-" in written()
    start = len(written())
    assert main(["compare", "quick", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(written()[start:].decode("utf-8"))))
    assert len(rows) == 2


def test_a_full_disk_is_one_message(tmp_path, monkeypatch, capsys):
    from hilbert.files import write_bytes
    from tune import cli

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(_: object) -> int:
        write_bytes(tmp_path / "file", b"x")
        return 0

    monkeypatch.setattr("os.fsync", no_space)
    monkeypatch.setattr(cli, "COMMANDS", {"compare": write})
    assert cli.main(["compare", "study"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == f"hilbert: {tmp_path / 'file'} can't be written: No space left on device\n"
