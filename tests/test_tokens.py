"""Ray's token is for this user alone."""

import os

import pytest

from tune.tokens import close_token, private_token


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_new_token_is_private(home):
    private_token()
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    before = token.read_text()
    private_token()
    assert token.read_text() == before


def test_a_token_that_others_can_read_is_closed_and_told(home, capsys):
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    private_token()
    assert token.stat().st_mode & 0o777 == 0o600
    told = capsys.readouterr().err
    assert f"{token}, Ray's token, could be read by other users" in told
    assert "secret" not in told
    close_token()
    assert capsys.readouterr().err == ""


def test_where_no_token_can_be_written_this_process_has_one_of_its_own(home, monkeypatch):
    (home / ".ray").touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    private_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_cluster_file_closes_the_token_that_it_brings_along(home, tmp_path):
    from tune.cluster import read_cluster_file

    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    path = tmp_path / "cluster.yaml"
    path.write_text(f'cluster_name: c\nprovider: {{type: local}}\nfile_mounts: {{"~/.ray/auth_token": {token}}}\n')
    read_cluster_file(path)
    assert token.stat().st_mode & 0o777 == 0o600
