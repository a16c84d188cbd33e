"""Feature stores that lie elsewhere: over the real S3 protocol, by several processes, killed, replaced, damaged."""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml
from moto.server import ThreadedMotoServer
from sweeps import environment, hilbert, records, run, write_study
from synthetic import make_store

from hilbert.errors import StoreError
from hilbert.features import FeatureStore
from hilbert.files import digest
from hilbert.inference import predict
from tune import stores
from tune.job import open_store, run_job
from tune.options import make_parser
from tune.plan import make_plan
from tune.search import Proposal
from tune.stores import cache_folder, full_location, local_folder, open_location
from tune.study_file import load_study
from tune.submit import request

PLACE = "s3://bucket/mine"
GET = """
import sys
from tune import stores
stores.PART, stores.AT_ONCE = int(sys.argv[3]), 1
print(stores.local_folder(sys.argv[1], sys.argv[2] or None), flush=True)
"""


class Requests(logging.Handler):
    """What the server was asked for."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(re.sub(r"\x1b\[[\d;]*m", "", record.getMessage()))

    def gets(self, name=""):
        return [line for line in self.lines if '"GET' in line and f"{name} HTTP" in line]


@pytest.fixture(scope="module")
def server():
    """An S3 server, where every process of this test finds it, and what it was asked for."""
    logger, asked = logging.getLogger("werkzeug"), Requests()
    before = logger.level, logger.propagate
    logger.addHandler(asked)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    process = ThreadedMotoServer(port=0, verbose=False)
    process.start()
    host, port = process.get_host_and_port()
    asked.uri = f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (keys | {"AWS_ENDPOINT_URL": asked.uri}).items():
            patch.setenv(name, value)
        yield asked
    process.stop()
    logger.removeHandler(asked)
    logger.propagate, logger.level = before[1], before[0]


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """An empty bucket, an empty cache, and nothing asked for yet."""
    found = boto3.resource("s3", endpoint_url=server.uri, region_name="us-east-1").Bucket("bucket")
    found.create()
    monkeypatch.setenv("HILBERT_CACHE", str(tmp_path / "cache"))
    server.lines.clear()
    yield found
    found.objects.all().delete()
    found.delete()


def made(folder, *, seed=0, audio_dim=7, **changes):
    """A store on disk."""
    cohort = make_store(40, seed=seed, audio_dim=audio_dim)
    documents = cohort.documents.assign(**changes)
    return FeatureStore.write(
        folder, documents=documents, audio=cohort.audio.split(), text=cohort.text.split(), overwrite=True
    )


def upload(bucket, store, prefix="mine"):
    for path in store.folder.iterdir():
        bucket.upload_file(str(path), f"{prefix}/{path.name}")


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def getter(fingerprint="", *, part=1 << 16, place=PLACE):
    """Another process of this node that wants the store."""
    return subprocess.Popen(
        [sys.executable, "-c", GET, place, fingerprint, str(part)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


# ---- the copy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "at_once"), [(1, 3), (97, 1), (1000, 4), (1 << 24, 8)])
def test_the_copy_is_the_store_to_the_last_byte(bucket, tmp_path, monkeypatch, part, at_once):
    monkeypatch.setattr(stores, "PART", part if part > 1 else 61)
    monkeypatch.setattr(stores, "AT_ONCE", at_once)
    store = made(tmp_path / "mine")
    upload(bucket, store)
    found = open_location(PLACE)
    assert contents(found.folder) == contents(store.folder)
    assert found.folder.parent == cache_folder() == tmp_path / "cache"
    assert isinstance(found.audio.values, np.memmap)
    assert found.fingerprint == store.fingerprint


def test_who_knows_the_fingerprint_asks_nobody(bucket, server, tmp_path):
    store = made(tmp_path / "mine")
    upload(bucket, store)
    first = local_folder(PLACE)
    server.lines.clear()
    assert local_folder(PLACE, store.fingerprint) == first
    assert open_store(f"{PLACE}", store.fingerprint).fingerprint == store.fingerprint
    assert server.lines == []
    assert local_folder(f"{PLACE}/") == first  # who doesn't know it looks at the manifest alone
    assert len(server.gets()) == len(server.gets("manifest.json")) == 1


def test_processes_of_one_node_share_one_download(bucket, server, tmp_path):
    store = made(tmp_path / "mine")
    upload(bucket, store)
    server.lines.clear()
    processes = [getter(store.fingerprint) for _ in range(4)]
    said = {process.communicate(timeout=60) for process in processes}
    assert said == {(f"{local_folder(PLACE, store.fingerprint)}\n", "")}  # one folder, and not a word beside it
    assert len(server.gets("audio.npy")) == len(server.gets("documents.csv")) == 1


def test_a_killed_download_is_not_used_and_goes_on(bucket, server, tmp_path):
    store = made(tmp_path / "mine", audio_dim=4000)
    upload(bucket, store)
    parts = -(-(store.folder / "audio.npy").stat().st_size // 4096)
    server.lines.clear()
    process = getter(store.fingerprint, part=4096)
    while len(server.gets("audio.npy")) < parts // 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [path.name for path in cache_folder().iterdir() if path.is_dir()]
    assert len(left) == 1
    assert left[0].endswith(".partial")
    before = len(server.gets("audio.npy"))
    assert parts // 4 <= before < parts
    again = getter(store.fingerprint, part=4096)
    assert contents(again.communicate(timeout=60)[0].strip()) == contents(store.folder)
    assert len(server.gets("audio.npy")) - before <= parts - before + 2  # what was there was not asked for again


@pytest.mark.parametrize("damage", [lambda old: b"\0" * len(old), lambda old: old + b"more", lambda old: old[:-1]])
def test_damage_that_an_interrupted_download_left_is_made_good(bucket, tmp_path, damage):
    store = made(tmp_path / "mine")
    upload(bucket, store)
    folder = local_folder(PLACE)
    partial = folder.with_name(f"{folder.name}.partial")
    folder.rename(partial)
    (partial / "audio.npy").write_bytes(damage((partial / "audio.npy").read_bytes()))
    assert contents(local_folder(PLACE, store.fingerprint)) == contents(store.folder)
    assert not partial.exists()


def test_a_copy_that_lost_a_file_is_made_anew(bucket, tmp_path):
    store = made(tmp_path / "mine")
    upload(bucket, store)
    (local_folder(PLACE) / "text.npy").unlink()
    assert contents(local_folder(PLACE, store.fingerprint)) == contents(store.folder)
    shutil.rmtree(cache_folder())  # as the README says: it may be deleted
    assert contents(local_folder(PLACE, store.fingerprint)) == contents(store.folder)


def test_a_store_that_was_replaced_is_noticed(bucket, tmp_path):
    old = made(tmp_path / "mine")
    upload(bucket, old)
    before = local_folder(PLACE)
    new = made(tmp_path / "mine", seed=1)
    upload(bucket, new)
    after = local_folder(PLACE)
    assert contents(after) == contents(new.folder)
    assert local_folder(PLACE, old.fingerprint) == before != after  # jobs of the running study go on with theirs
    shutil.rmtree(before)
    with pytest.raises(StoreError, match=r"s3://bucket/mine: the store was replaced since"):
        local_folder(PLACE, old.fingerprint)


def test_other_words_on_the_same_features_are_taken_over(bucket, server, tmp_path):
    store = made(tmp_path / "mine")
    upload(bucket, store)
    folder = local_folder(PLACE)
    text = json.dumps(dict(store.manifest) | {"cohort": {"fingerprint": "c"}})
    bucket.Object("mine/manifest.json").put(Body=text.encode())
    server.lines.clear()
    assert open_location(PLACE).manifest["cohort"] == {"fingerprint": "c"}
    assert local_folder(PLACE) == folder
    assert not server.gets("audio.npy")


def test_any_file_system_of_fsspec_will_do(bucket, tmp_path):
    store = made(tmp_path / "mine")
    for place in (f"fsspec+file://{store.folder}", f"file://{store.folder}"):
        assert contents(local_folder(place)) == contents(store.folder)


def test_an_ordinary_folder_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_folder("features/mine") == Path("features/mine")
    assert full_location("features/mine") == str(tmp_path / "features" / "mine")
    assert full_location("s3://bucket/mine/") == "s3://bucket/mine"


def test_the_cache_lies_where_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HILBERT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "hilbert" / "stores"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hilbert" / "stores"
    monkeypatch.setenv("HILBERT_CACHE", str(tmp_path / "fast"))
    assert cache_folder() == tmp_path / "fast"


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://nobody-has-this/mine", "there is no such bucket"),
        ("s3://bucket/nothing", "no feature store there, manifest.json is missing; upload one with 'aws s3 sync"),
        ("s3://key:secret@bucket/mine", "must hold no password"),
        ("s3://bucket/mine?regin=x", "unknown option 'regin'; known are region, scheme, endpoint_override"),
        ("nope://bucket/mine", "a store lies in a folder, or at s3://"),
        ("fsspec+nope://bucket/mine", "Protocol not known: nope"),
        ("s3://bucket/mine?endpoint_override=127.0.0.1:9&scheme=http", "no connection: check the network"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(bucket, tmp_path, monkeypatch, place, said):
    monkeypatch.setattr(stores, "ATTEMPTS", 1)
    with pytest.raises(StoreError) as refused:
        local_folder(place)
    message = str(refused.value)
    assert said in message
    assert "secret" not in message
    assert "\n" not in message
    assert message.startswith(place) or "password" in message
    assert not (tmp_path / "cache").exists()


def test_who_may_not_read_is_told_so(bucket, server, tmp_path):
    upload(bucket, made(tmp_path / "mine"))

    def allowed(calls):
        headers = {"Content-Type": "text/plain"}
        wanted = urllib.request.Request(f"{server.uri}/moto-api/reset-auth", data=calls, headers=headers)
        urllib.request.urlopen(wanted).close()

    allowed(b"0")
    try:
        with pytest.raises(StoreError, match="s3://bucket/mine: can't be read: access denied"):
            local_folder(PLACE)
    finally:
        allowed(b"inf")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda item: item.delete(), "s3://bucket/mine/audio.npy: missing"),
        (lambda item: item.put(Body=b"short"), r"s3://bucket/mine/audio.npy: 5 bytes, the manifest says \d+; upload"),
        (
            lambda item: item.put(Body=b"\1" + item.get()["Body"].read()[1:]),
            "s3://bucket/mine/audio.npy: its contents have changed .* damaged where it lies",
        ),
    ],
)
def test_a_damaged_upload_is_refused_and_leaves_nothing(bucket, tmp_path, spoil, said):
    upload(bucket, made(tmp_path / "mine"))
    spoil(bucket.Object("mine/audio.npy"))
    with pytest.raises(StoreError, match=said):
        local_folder(PLACE)
    assert not [path for path in cache_folder().iterdir() if path.is_dir()]


def test_a_store_without_room_for_it_is_refused_before_the_download(bucket, server, tmp_path):
    store = made(tmp_path / "mine")
    upload(bucket, store)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    manifest["files"]["audio.npy"]["bytes"] = 10**16
    bucket.Object("mine/manifest.json").put(Body=json.dumps(manifest).encode())
    server.lines.clear()
    with pytest.raises(StoreError, match=r"needs 10000000\.0 GB in .*cache, where .* GB are free; .* HILBERT_CACHE"):
        local_folder(PLACE)
    assert not server.gets("audio.npy")


def test_a_cache_that_cannot_be_written_is_named(bucket, tmp_path, monkeypatch):
    upload(bucket, made(tmp_path / "mine"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("HILBERT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StoreError, match=r"can't be copied to .*file/cache .*HILBERT_CACHE"):
        local_folder(PLACE)


def test_nothing_is_extracted_to_a_url(capsys):
    with pytest.raises(SystemExit) as refused:
        make_parser().parse_args(["extract", "cohort", PLACE])
    assert refused.value.code == 2
    assert f"features are written to a folder; upload it then, as by 'aws s3 sync FOLDER {PLACE}'" in (
        capsys.readouterr().err
    )


# ---- memory ----------------------------------------------------------------------------------------------------------

FIT = """
import sys, threading, torch
from synthetic import fit_config, make_fold
from hilbert.training import fit
from tune.job import open_store

torch.set_num_threads(1)

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

fold = make_fold(400, inner=50, held_out=50)
fit(fit_config(epochs=1), open_store(sys.argv[1], sys.argv[2]), fold)  # what torch takes by itself, with a small store
before, most, done = anonymous(), 0, threading.Event()

def watch():
    global most
    while not done.wait(0.002):
        most = max(most, anonymous())

threading.Thread(target=watch).start()
try:
    fit(fit_config(epochs=1), open_store(sys.argv[3], sys.argv[4]), fold)
finally:
    done.set()
print(most - before)
"""


def grown(store, folder, segments):
    """The same documents with `segments` audio segments each, all zero: a file of holes that occupies no disk."""
    shutil.copytree(store.folder, folder)
    manifest, rows = json.loads((folder / "manifest.json").read_text()), segments * len(store)
    entry = manifest["modalities"]["audio"]
    array = np.lib.format.open_memmap(folder / "audio.npy", "w+", entry["dtype"], (rows, entry["dim"]))
    np.save(folder / "audio_offsets.npy", np.arange(0, rows + 1, segments))
    np.save(folder / "audio_segments.npy", np.tile(np.arange(segments), len(store)))
    entry["segments"] = rows
    for name, file in manifest["files"].items():
        file |= {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return FeatureStore.open(folder), array.nbytes


def test_a_fit_never_has_the_store_in_its_own_memory(tmp_path):
    """What is memory-mapped is the page cache's, shared by all jobs of the node; what a process has is its batch."""
    cohort = make_store(1000, audio_dim=1000)
    small = FeatureStore.write(
        tmp_path / "small", documents=cohort.documents, audio=cohort.audio.split(), text=cohort.text.split()
    )
    large, size = grown(small, tmp_path / "large", 250)
    assert size == 1_000_000_000
    arguments = [str(word) for store in (small, large) for word in (store.folder, store.fingerprint)]
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    done = run([sys.executable, "-c", FIT, *arguments], folder=tmp_path, **paths)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < size / 3


# ---- studies ---------------------------------------------------------------------------------------------------------


def test_a_study_names_the_url_and_not_the_copy(bucket, tmp_path):
    upload(bucket, made(tmp_path / "a"), "a")
    upload(bucket, made(tmp_path / "b", audio_dim=9), "b")
    features = {"a": "s3://bucket/a", "b": "s3://bucket/b/"}
    study = load_study(write_study(tmp_path, database=False, features=features, tasks={"affect": "binary"}))
    plan = make_plan(study)
    assert plan.data.stores == {"a": "s3://bucket/a", "b": "s3://bucket/b"}
    upload(bucket, made(tmp_path / "b", group_id="one"), "b")
    with pytest.raises(StoreError, match="s3://bucket/b: holds other documents or labels than s3://bucket/a"):
        make_plan(study)
    upload(bucket, made(tmp_path / "b", affect="neither"), "b")
    with pytest.raises(ValueError, match=r"s3://bucket/b/documents\.csv"):
        make_plan(study.model_copy(update={"features": "s3://bucket/b"}))


def test_a_cluster_is_not_asked_to_bring_what_lies_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, database=False, features=PLACE)
    content = {"cluster_name": "lab", "provider": {"type": "local", "head_ip": "192.0.2.1", "worker_ips": []}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(content | {"file_mounts": {"~/p/study.yaml": "study.yaml"}}))
    found = request(make_parser().parse_args(["submit", "study.yaml", "--cluster", "cluster.yaml"]))
    assert found.command == "cd ~/p && exec hilbert sweep study.yaml"


@pytest.mark.timeout(240)
def test_a_sweep_over_s3_is_that_over_the_folder(bucket, server, demo_store, tmp_path, monkeypatch):
    """From the sweep by way of release to predictions: nothing but where the features lie is different."""
    upload(bucket, FeatureStore.open(demo_store))
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path, features=PLACE, trials=1, search={}, resources={"workers": 2})
    swept = hilbert("sweep", file, folder=tmp_path)
    assert swept.returncode == 0, swept.stderr
    assert f"downloading {PLACE} (4.8 MB) to {cache_folder()}" in swept.stderr
    here = make_plan(load_study(file, [f"features={demo_store}"]))
    jobs = here.jobs(Proposal(0, {}, here.study.configuration({}), "features", ""))
    assert {f"{job.identity}.json": comparable(run_job(job, here.data)) for job in jobs} == records(tmp_path, "quick")

    released = hilbert("release", "quick", "--name", "voices", folder=tmp_path)
    assert released.returncode == 0, released.stderr
    written = [path for kind in ("json", "yaml", "md") for path in tmp_path.rglob(f"*.{kind}")]
    texts = [path.read_text() for path in written if cache_folder() not in path.parents]
    assert any(PLACE in text for text in texts)
    assert not any(str(cache_folder()) in text for text in texts)
    model = released.stdout.splitlines()[-1]
    predicted = hilbert("predict", model, PLACE, "--output", "there.csv", folder=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    predict(model, demo_store).table().to_csv("here.csv", index=False)
    assert Path("here.csv").read_bytes() == Path("there.csv").read_bytes()
    assert len(server.gets("audio.npy")) == 1


def comparable(record):
    """As `sweeps.records` reads it."""
    content = json.loads(record.to_json())
    for name in ("started", "seconds"):
        del content[name]
    content["epochs"].pop("seconds", None)
    return content
