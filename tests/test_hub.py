"""Models of the hub where there is no network: few attempts, one message, and the copy on this computer."""

import socket

import pytest
import tiny_models
from huggingface_hub import constants

from hilbert.cohort import Cohort
from hilbert.encoders import hub, huggingface, load_encoder
from hilbert.errors import EncoderError
from hilbert.extraction import extract


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """A hub at which nobody listens, and an empty folder for its models."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "models"))
        monkeypatch.setattr(hub, "PAUSE", 0.0)
        yield tmp_path


def test_a_hub_that_cannot_be_reached_is_told_in_one_message(no_network, caplog, capfd):
    with pytest.raises(EncoderError) as told:
        load_encoder("hf:somebody/some-model", modality="text")
    for part in ("hf:somebody/some-model", "doesn't answer", "HTTPS_PROXY", "hf:FOLDER", "HF_HOME"):
        assert part in str(told.value)
    assert [record.name for record in caplog.records] == ["hilbert.encoders.hub"] * (hub.ATTEMPTS - 1)
    assert "trying again, 2 of 3" in caplog.records[0].message
    assert capfd.readouterr().err == ""


def test_where_asking_is_forbidden_nobody_is_asked(no_network, monkeypatch, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match="HF_HUB_OFFLINE=1"):
        load_encoder("hf:some-model", modality="audio")
    assert caplog.records == []


def test_a_silent_hub_costs_a_bounded_time(no_network, monkeypatch):
    monkeypatch.setattr(hub, "ANSWERS_WITHIN", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(EncoderError, match="doesn't answer"):
            load_encoder("hf:some-model", modality="text")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def downloaded(no_network):
    """A model of the hub that was downloaded before."""
    model = no_network / "models" / "models--somebody--tiny"
    (model / "snapshots").mkdir(parents=True)
    tiny_models.bert(model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return no_network


def test_the_copy_on_this_computer_is_taken(downloaded, caplog):
    encoder = load_encoder("hf:somebody/tiny", modality="text", device="cpu")
    assert encoder.encode(["one"]).shape == (1, encoder.dim)
    assert "the copy on this computer is taken" in caplog.text


def test_the_hub_s_commit_is_noted(downloaded):
    assert load_encoder("hf:somebody/tiny", modality="text", device="cpu").description["revision"] == COMMIT


def test_features_of_versions_that_noted_no_commit_are_known_again_with_a_word(downloaded, monkeypatch, caplog):
    folder = downloaded / "cohort"
    folder.mkdir()
    (folder / "documents.csv").write_text("document_id\na\n")
    (folder / "segments.csv").write_text("document_id,segment,text\na,0,hello\n")
    with monkeypatch.context() as earlier:
        earlier.setattr(huggingface, "commit_of", lambda *_: None)
        first = extract(Cohort.load(folder), downloaded / "store", text="hf:somebody/tiny", device="cpu")
    assert first.encoders["text"]["revision"] is None
    again = extract(Cohort.load(folder), downloaded / "store", text="hf:somebody/tiny", device="cpu")
    assert again.fingerprint == first.fingerprint
    assert "didn't note its encoders' revisions: not checked" in caplog.text
    (downloaded / "models/models--somebody--tiny/refs/main").write_text(COMMIT[::-1])
    (downloaded / "models/models--somebody--tiny/snapshots" / COMMIT).rename(
        downloaded / "models/models--somebody--tiny/snapshots" / COMMIT[::-1]
    )
    fresh = extract(Cohort.load(folder), downloaded / "other", text="hf:somebody/tiny", device="cpu")
    assert fresh.encoders["text"]["revision"] == COMMIT[::-1]
