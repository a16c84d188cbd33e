"""Passwords of tracking addresses: nowhere on the terminal, and in no file; what is said while a server is silent."""

import base64
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from servers import free_port
from sweeps import empty_database, environment, write_study

from hilbert.errors import InputError
from tune.archive import Archive
from tune.job import FoldJob, failed
from tune.leaderboard import leaderboard_url, server_version
from tune.redaction import has_password, plain, printable, remember, without_passwords
from tune.terminal import Terminal
from tune.tracking import elsewhere, tracking_uri

SECRET = "s3cr3tw0rd"
HIDDEN = {
    f"postgresql://ada:{SECRET}@host:5432/db": "postgresql://***@host:5432/db",
    f"postgresql+psycopg://ada:x%40{SECRET}%2F@host/db": "postgresql+psycopg://***@host/db",
    f"postgresql://ada:a@{SECRET}@host/db": "postgresql://***@host/db",
    f"postgresql://ada:a/{SECRET}:#x@host/db": "postgresql://***@host/db",
    f"postgresql://:{SECRET}@host/db": "postgresql://***@host/db",
    f"https://{SECRET}@host/mlflow": "https://***@host/mlflow",
    f"postgresql:///db?user=ada&password={SECRET}&sslmode=require": "postgresql:///db?user=ada&password=***&sslmode=require",
    f"postgresql://host/db?sslpassword={SECRET}": "postgresql://host/db?sslpassword=***",
    f"http://host/?access_token={SECRET}&x=1": "http://host/?access_token=***&x=1",
    f"s3://key:{SECRET}@bucket/folder?endpoint_override=x": "s3://***@bucket/folder?endpoint_override=x",
    f"{{'host': 'x', 'password': '{SECRET}'}}": "{'host': 'x', 'password': '***'}",
}
HARMLESS = (
    *("ada@example.org", "sqlite:////home/ada@x/mlflow.db", "http://host:5000/#/experiments/3", "file:///a@b/c"),
    *("models:/affect@champion", "s3://bucket/a@b/c", "12 tokens", "the password: see ~/.mlflow", "https://host/a?b=c"),
)


@pytest.mark.parametrize("text", HIDDEN)
def test_passwords_of_every_form_are_hidden(text):
    for around in ("{}", "MLflow at {} can't be used", "('{}',)", "--tracking-uri={}", "a@b {} c@d"):
        assert without_passwords(around.format(text)) == around.format(HIDDEN[text])
    assert has_password(text)
    assert without_passwords(HIDDEN[text]) == HIDDEN[text]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_password_is_shown(text):
    assert without_passwords(text) == text


def test_a_password_is_hidden_too_where_it_stands_without_its_address():
    remember("postgresql://ada:two%20words-of@h@host/db")
    assert "words" not in printable("invalid dsn: two words-of@h, of two%20words-of@h@host")
    remember("postgresql://mlflow:mlflow@host/mlflow")  # a word that stands everywhere isn't one
    assert printable("mlflow 3.17") == "mlflow 3.17"


@pytest.mark.parametrize(
    "uri", [f"http://ada:x/{SECRET}@host", f"https://ada:x#{SECRET}@h", f"mysql://a:x@{SECRET}@h/d"]
)
def test_an_address_that_would_be_taken_apart_wrongly_is_refused(uri):
    with pytest.raises(InputError, match=r"written with %") as refused:
        tracking_uri(uri)
    assert SECRET not in str(refused.value)


def test_control_characters_and_markup_of_others_are_shown_as_plain_text(capsys):
    assert plain("a\x1b[31mb\x1b]0;title\x07c\rd\x9b2Je\u202ef\tg\n") == "abcdef\tg\n"
    Terminal(width=60).print("\x1b[2J[red]name[/red] :smile:", f"http://u:{SECRET}@h")
    assert capsys.readouterr().out == "[red]name[/red] :smile: http://***@h\n"


def test_log_records_and_tracebacks_are_filtered(tmp_path):
    code = (
        "import logging, sys, tune.cli\n"
        "tune.cli.main(['compare', 'x', '--tracking-uri', 'sqlite:////proc/none/x.db'])\n"
        f"logging.getLogger('mlflow').warning('to %s', 'http://u:{SECRET}@h')\n"
        f"try: raise ValueError('http://u:{SECRET}@h')\n"
        "except ValueError: logging.getLogger('x').exception('\\x1b[31mbad')\n"
        f"raise RuntimeError('http://u:{SECRET}@h')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("http://***@h") == 3, done.stderr
    assert "RuntimeError" in done.stderr
    assert SECRET not in done.stderr
    assert "\x1b" not in done.stderr


# ---- every command, every file ---------------------------------------------------------------------------------------


def holding(folder: Path) -> list[Path]:
    """Files that hold the secret."""
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_no_command_tells_the_password_of_a_server_that_isnt_there(tmp_path, here, demo_store, quick_sweep):
    port = free_port()
    folder = quick_sweep.copy(tmp_path / "work")
    addresses = [
        f"http://ada:{SECRET}@127.0.0.1:{port}",
        f"http://{SECRET}@127.0.0.1:{port}",
        f"postgresql+psycopg://ada:{SECRET}@127.0.0.1:{port}/db",
        f"postgresql+psycopg://ada:x%2F{SECRET}@127.0.0.1:{port}/db?password={SECRET}",
        f"mysql+nodriver://ada:{SECRET}@127.0.0.1:{port}/db",
        f"nosuch://ada:{SECRET}@127.0.0.1:{port}/db",
    ]
    commands = [
        *(["sweep", "study.yaml"], ["sync", "quick"], ["compare", "quick"], ["select", "quick"], ["report", "quick"]),
        *(["release", "quick", "--name", "x"], ["ui", "quick", "--no-browser"]),
        ["predict", "models:/x@champion", str(demo_store), "--output", "x.csv"],
    ]
    for place, uri in enumerate(addresses):
        for words in commands if place in {0, 2} else commands[place % 4 : place % 4 + 2]:
            code, out, err = here(*words, "--tracking-uri", uri, folder=folder)
            assert code == 2, (words, err)
            assert SECRET not in out + err, words
            assert len([line for line in err.splitlines() if line.startswith("hilbert: ")]) == 1, err
    assert not holding(folder)


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_is_recorded_or_said_holds_the_password(tmp_path, quick_sweep, here):
    folder = quick_sweep.copy(tmp_path / "work")
    uri = f"sqlite:///other.db?password={SECRET}"
    (folder / "other.db").write_bytes(empty_database().read_bytes())
    said = ""
    for words in (
        *(["sync", "quick"], ["compare", "quick"], ["report", "quick"]),
        ["release", "quick", "--name", "x", "--calibration", "none"],
    ):
        done = here(*words, "--tracking-uri", uri, folder=folder)
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert SECRET not in said
    assert "other.db?password=***" in said
    assert not holding(folder)


def test_the_study_file_that_is_kept_lacks_the_password_and_sync_asks_for_it(tmp_path, quick_sweep, here):
    folder = quick_sweep.copy(tmp_path / "work")
    archive = Archive(folder / "studies" / "quick")
    content = archive.study_file()
    archive.keep_study_file({**content, "tracking_uri": f"postgresql://ada:{SECRET}@host/db"})
    assert not holding(folder)
    code, _, err = here("sync", "quick", folder=folder)
    assert code == 2
    assert "MLFLOW_TRACKING_URI" in err
    assert "postgresql://***@host/db" in err
    archive.keep_study_file({**content, "features": f"s3://key:{SECRET}@bucket/store"})
    assert archive.study_file()["features"] == f"s3://key:{SECRET}@bucket/store"
    assert (archive.folder / "study_file.json").stat().st_mode & 0o777 == 0o600


def test_an_error_of_a_fold_job_is_kept_without_passwords():
    job = FoldJob(0, 0, None, "features", "x")
    assert failed(job, f"can't open s3://key:{SECRET}@bucket", time.time()).error == "can't open s3://***@bucket"


def test_a_command_to_be_given_again_hides_the_password(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"postgresql://ada:{SECRET}@host/db"
    assert elsewhere(uri) == ["--tracking-uri", "postgresql://***@host/db"]
    with pytest.raises(InputError, match="lacks its password"):
        tracking_uri(elsewhere(uri)[1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert elsewhere(uri) == []


def test_a_link_has_no_password_and_the_server_gets_it(monkeypatch):
    """MLflow's own client logs in by the address; so does the question for the server's version."""
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    given = []

    class Version(BaseHTTPRequestHandler):
        def do_GET(self):
            given.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"3.17.2")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Version) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert server_version(f"http://ada:x%40{SECRET}@127.0.0.1:{server.server_port}") == "3.17.2"
        thread.join()
    assert given == ["Basic " + base64.b64encode(f"ada:x@{SECRET}".encode()).decode()]
    link = leaderboard_url(f"http://ada:{SECRET}@host:5000/", "1", "mean_auc")
    assert link.startswith("http://host:5000/#/experiments/1/runs?")


# ---- servers that are silent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_silent_server_is_named_and_given_up(tmp_path, here, monkeypatch, scheme):
    monkeypatch.setattr("tune.address.TELL_AFTER", 0.2)
    monkeypatch.setattr("tune.address.LIMIT", 2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        uri = f"{scheme}://ada:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
        code, _, err = here("compare", "quick", "--tracking-uri", uri, folder=tmp_path)
    waiting, refused = err.splitlines()
    assert code == 2
    assert waiting.startswith(f"waiting for MLflow at {scheme}://***@127.0.0.1")
    assert refused.startswith("hilbert: MLflow at")
    assert time.monotonic() - started < 20
    assert SECRET not in err


def test_a_study_file_with_an_address_is_read_without_telling_it(tmp_path, here, demo_store):
    write_study(tmp_path, features=str(demo_store), tracking_uri=f"http://ada:{SECRET}@127.0.0.1:{free_port()}")
    code, _, err = here("sweep", "study.yaml", folder=tmp_path)
    assert code == 2
    assert SECRET not in err
    assert "http://***@127.0.0.1" in err
