"""A release may come from anybody: nothing outside of its folder is read, and nothing that isn't listed counts."""

import json
import os
import shutil
from pathlib import Path

import pytest
from test_reading import little_memory
from test_release import STORE, release

from hilbert import Release
from hilbert.errors import InputError
from hilbert.files import digest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "release"
    release().save(folder, card="")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "release"))


def edit(path, change, *, sealed=False):
    content = json.loads(path.read_text())
    if not sealed:
        content.pop("checksum", None)  # as whoever means harm would do it
    change(content)
    path.write_text(json.dumps(content))


def forged(folder, name, content):
    """Replaces a file, and lists its new hash."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    edit(folder / "release.json", lambda manifest: manifest["files"].update({name: digest(folder / name)}))


def outside(folder, how):
    place = shutil.copytree(folder, folder.parent / "other")
    if how == "absolute":
        return str(place)
    if how == "link":
        (folder / "there").symlink_to(place)
        return "there"
    return "../other"


@pytest.mark.parametrize("how", ["..", "absolute", "link"])
def test_members_and_files_lie_within_the_folder(folder, how):
    there = outside(folder, how)
    edit(folder / "release.json", lambda manifest: manifest.update(members=[there]))
    with pytest.raises(InputError, match=r"release\.json: damaged, .* leads outside of the release"):
        Release.load(folder)
    edit(folder / "release.json", lambda manifest: manifest.update(members=["."]))
    edit(folder / "release.json", lambda manifest: manifest["files"].update({f"{there}/config.json": "0" * 64}))
    with pytest.raises(InputError, match=r"config\.json' leads outside of the release"):
        Release.load(folder)


def test_a_listed_file_that_is_a_link_to_elsewhere(folder):
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to("../config.json")
    with pytest.raises(InputError, match=r"'config\.json' leads outside of the release"):
        Release.load(folder)


@pytest.mark.parametrize("name", [None, "config.json", "model.safetensors", "preprocessing.json", "calibration.json"])
def test_every_file_that_matters_is_listed(folder, name):
    change = (lambda m: m.update(files={})) if name is None else (lambda m: m["files"].pop(name))
    edit(folder / "release.json", change)
    with pytest.raises(InputError, match="its files lack "):
        Release.load(folder)


def test_what_is_not_listed_is_ignored(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "learned_from.json").write_bytes(b"{")
    assert Release.load(folder).predict(STORE).table().equals(release().predict(STORE).table())


def test_a_release_of_the_version_before_has_no_checksum(folder):
    edit(folder / "release.json", lambda manifest: None)
    assert Release.load(folder).name == release().name


def test_every_changed_bit_of_the_manifest_is_noticed(folder):
    path = folder / "release.json"
    content, expected = path.read_bytes(), Release.load(folder)
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 7]) + content[place + 1 :])
        try:
            found = Release.load(folder)
        except InputError:
            continue
        assert (found.name, found.made) == (expected.name, expected.made)  # a space that is another space
    path.write_bytes(content)


HUGE = 10**400
FORGERIES = {
    "members nothing": ("release.json", lambda m: m.update(members=[])),
    "members a number": ("release.json", lambda m: m.update(members=[1])),
    "a name that is a list": ("release.json", lambda m: m.update(name=["x"])),
    "made a text": ("release.json", lambda m: m.update(made="x")),
    "a trial below 0": ("release.json", lambda m: m.update(made={"trial": -1})),
    "no hash": ("release.json", lambda m: m["files"].update({"config.json": None})),
    "10^9 layers": ("config.json", lambda c: c["model"].update(layers=10**9)),
    "a huge width": ("config.json", lambda c: c["model"].update(width=HUGE)),
    "another width": ("config.json", lambda c: c["model"].update(width=16_000)),
    "dimensions beyond all": ("config.json", lambda c: c.update(audio_dim=10**12)),
    "tasks nested": ("config.json", lambda c: c.update(tasks=[[[[]]]])),
    "a version that is huge": ("config.json", lambda c: c.update(version=HUGE)),
    "a window below 0": ("preprocessing.json", lambda c: c.update(window=-1)),
    "a dtype that is none": ("preprocessing.json", lambda c: c.update(dtype="int8")),
    "an encoder that is a text": ("preprocessing.json", lambda c: c["audio"].update(encoder="x")),
    "other dimensions": ("preprocessing.json", lambda c: c["text"].update(dim=9)),
    "no text": ("preprocessing.json", lambda c: c.pop("text")),
    "too few offsets": ("calibration.json", lambda c: c["affect"].update(offsets=[0.0])),
    "a text among offsets": ("calibration.json", lambda c: c["affect"].update(offsets=["0", 0.0])),
    "a huge temperature": ("calibration.json", lambda c: c["affect"].update(temperature=HUGE)),
    "of a regression": ("calibration.json", lambda c: c.update(score={"method": "none"})),
    "of another task": ("calibration.json", lambda c: c.update(other={"method": "none"})),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_contents_that_none_can_have(folder, what):
    name, change = FORGERIES[what]
    content = json.loads((folder / name).read_text())
    if "affect" in content and "method" in content["affect"]:
        content["affect"] = {"method": "temperature", "temperature": 1.0, "offsets": [0.0, 0.0]}
    change(content)
    if name == "release.json":
        edit(folder / name, change)
    else:
        forged(folder, name, content)
    with little_memory(), pytest.raises(InputError, match=name if name != "config.json" else "json") as caught:
        Release.load(folder)
    assert len(str(caught.value)) < 600


TEXTS = {
    "200,000 brackets": b"[" * 200_000 + b"]" * 200_000,
    "NaN": b'{"affect": {"method": "temperature", "temperature": NaN, "offsets": [0, 0]}}',
    "key twice": b'{"format": "hilbert-release", "format": "hilbert-release"}',
    "a list": b"[]",
    "nothing": b"",
    "latin-1": b'{"\xe9": 1}',
}


@pytest.mark.parametrize("what", TEXTS)
@pytest.mark.parametrize("name", ["release.json", "config.json", "preprocessing.json", "calibration.json"])
def test_texts_that_are_no_json_of_ours(folder, name, what):
    if name == "release.json":
        (folder / name).write_bytes(TEXTS[what])
    else:
        forged(folder, name, TEXTS[what])
    with pytest.raises(InputError, match=name):
        Release.load(folder)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nothing")])
@pytest.mark.parametrize("name", ["release.json", "config.json", "model.safetensors", "model_card.md"])
def test_what_is_no_file(folder, name, make):
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(InputError, match=name):
        Release.load(folder)


def test_weights_that_claim_a_header_of_100_megabytes(folder):
    with (folder / "model.safetensors").open("wb") as file:
        file.write((10**8).to_bytes(8, "little") + b"{" * 1000)
        file.truncate(10**8 + 8)
    with (
        little_memory(),
        pytest.raises(InputError, match=r"model\.safetensors: damaged, its header claims 100,"),
    ):
        Release.load(folder)
