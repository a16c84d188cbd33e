"""A tracking server that names folders of this computer: nothing there is read or written."""

import pytest
from servers import Server

from hilbert.errors import InputError
from tune.artifacts import SHARED, check_location
from tune.tracking import connect, read_study

SERVER = "http://127.0.0.1:5000"
HERE = ("file:///etc", "FILE:///etc", "file:/etc", "/etc", "etc", "./etc", " file:///etc", "fi\tle:///etc", "runs:/x/y")


@pytest.mark.parametrize("location", HERE)
def test_a_server_names_no_place_on_this_computer(location):
    with pytest.raises(InputError, match="nothing is read from there or written to it"):
        check_location(SERVER, location)
    check_location("sqlite:////x/mlflow.db", location)


@pytest.mark.parametrize("location", ["s3://bucket/a", "mlflow-artifacts:/1", "https://host/api/artifacts", "gs://b/c"])
def test_other_places_are_believed(location):
    check_location(SERVER, location)


def test_a_folder_that_both_share_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv(SHARED, str(tmp_path))
    check_location(SERVER, (tmp_path / "a b" / "1").as_uri())
    check_location(SERVER, str(tmp_path / "1"))
    for location in ((tmp_path / ".." / "x").as_uri(), f"file://{tmp_path}/%2e%2e/x", "file:///etc"):
        with pytest.raises(InputError, match=SHARED):
            check_location(SERVER, location)


@pytest.mark.timeout(300)
def test_commands_read_and_write_no_folder_that_a_server_names(tmp_path, here, quick_sweep, demo_store, monkeypatch):
    """The study of a store, as a server tells of it that serves no artifacts."""
    folder = quick_sweep.copy(tmp_path / "work")
    server = Server(tmp_path / "server")
    (folder / "mlflow.db").rename(server.folder / "m.db")
    with server:
        client = connect(server.uri)
        run = read_study(client, "quick").trials["run"][0]
        before = sorted(folder.rglob("*"))
        for action in (
            lambda: client.download_artifacts(run, "configuration.json", str(tmp_path)),
            lambda: client.log_artifacts(run, str(tmp_path / "server")),
        ):
            with pytest.raises(InputError, match="since a server could name any"):
                action()
        to_server = ("--tracking-uri", server.uri)
        for words in (["compare", "quick"], ["select", "quick"], ["release", "quick", "--name", "m"]):
            code, _, err = here(*words, *to_server, folder=folder)
            assert code == (0 if words[0] == "compare" else 2)  # its table needs no artifact
            assert "since a server could name any" in err
        code, _, err = here("predict", f"runs:/{run}", demo_store, "--output", "p.csv", *to_server)
        assert code == 2
        assert "since a server could name any" in err
        code, _, err = here("sweep", "study.yaml", "--set", "trials=3", *to_server)
        assert code == 2
        assert "since a server could name any" in err
        assert sorted(folder.rglob("*")) == before
        monkeypatch.setenv(SHARED, str(folder / "mlartifacts"))
        code, _, err = here("select", "quick", *to_server)
        assert code == 0, err
