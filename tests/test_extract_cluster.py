"""`hilbert extract --workers`: the store of one process, to the last byte, whatever happens to the others meanwhile."""

import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cohorts
import numpy as np
import pytest
import tiny_models
from servers import RayCluster, kill, session, started, wait_for
from sweeps import LIMIT, hilbert, run

from hilbert import encoders, extraction
from hilbert.cohort import Cohort
from hilbert.shards import Stretch, plan
from tune import cli
from tune.encoding import Encoders, Order

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
MINI = Path(__file__).parent / "data" / "speechocean-mini"
DOCUMENTS, PARTS = 10, 128  # every document fills a shard of its own, one a modality

PLUGIN = """
import os
import time
from pathlib import Path
import numpy as np

class Slow:
    def __init__(self, name, modality):
        self.description = {"name": name.written, "modality": modality, "dim": 2}
        self.dim, self.deadly, self.seen = 2, "deadly" in name.options, Path(name.options["seen"])

    def encode(self, segments):
        if self.deadly:
            os._exit(1)
        time.sleep(float(os.environ["SLOW_SECONDS"]))
        with self.seen.open("a") as file:
            file.write("shard\\n")
        rows = [[len(one), 0] if isinstance(one, str) else [one.size, np.square(one).mean()] for one in segments]
        return np.array(rows, np.float32).reshape(-1, 2)

def make(name, modality, device, batch_size):
    return Slow(name, modality)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two nodes of one CPU each, where a package is installed that brings the encoder `slow:`."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "slow_encoder.py").write_text(PLUGIN)
    installed = folder / "slow_encoder-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-encoder\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[hilbert.encoders]\nslow = slow_encoder:make\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("SLOW_SECONDS", "0.3")
        patch.syspath_prepend(folder)
        with RayCluster() as running:
            running.raylet = running.add_node()  # type: ignore[attr-defined]
            yield running


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Both modalities; two of the recordings are damaged."""
    documents = "document_id,affect\n" + "".join(f"d{number},{number % 2}\n" for number in range(DOCUMENTS))
    rows = [
        f"d{number},{part},n{number}.wav,{part * 0.01},{part * 0.01 + 0.01},{'word ' * (part % 7 + number)}x"
        for number in range(DOCUMENTS)
        for part in range(PARTS)
    ]
    folder = cohorts.write_cohort(
        tmp_path / "cohort", documents, "document_id,segment,audio,start,end,text\n" + "\n".join(rows)
    )
    for number in range(DOCUMENTS):
        cohorts.write_wave(folder / f"n{number}.wav", 1.28, seed=number)
    for damaged in ("n7.wav", "n2.wav"):
        (folder / damaged).write_bytes(b"damaged")
    return folder


def same(one: Path, two: Path) -> bool:
    """Whether two stores hold the same files."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def told(message: str) -> list[str]:
    """The warnings of a command."""
    return [line for line in message.splitlines() if line.startswith(("WARNING", "hilbert", "ERROR"))]


def encoding(cluster: RayCluster) -> list[int]:
    """The processes that encode a shard right now."""
    return [process for process, (_, title) in session(cluster.process.pid).items() if "MapWorker" in title]


def test_kills_of_actors_nodes_and_the_command_leave_no_trace(
    cluster: RayCluster, cohort: Path, tmp_path: Path
) -> None:
    seen, partial = tmp_path / "seen", tmp_path / "shared.partial"
    names = [f"--{name}=slow:{name}?seen={seen}" for name in ("audio", "text")]
    alone = hilbert("extract", "cohort", "alone", *names, "--on-error=skip", folder=tmp_path, SLOW_SECONDS="0")
    assert alone.returncode == 0, alone.stderr
    command = ("extract", "cohort", "shared", *names, "--on-error=skip", "--workers=all")

    def done() -> int:
        return len(list(partial.glob("*.json")))

    with started(*command, folder=tmp_path, RAY_ADDRESS=cluster.address) as first:
        wait_for(lambda: done() >= 3, first)
        assert len(encoding(cluster)) == 2
        kill(encoding(cluster)[0])
        wait_for(lambda: done() >= 8, first)
        first.kill()
        first.wait(LIMIT)
    kept = done()
    wait_for(lambda: not encoding(cluster))
    seen.unlink()
    with started(*command, folder=tmp_path, RAY_ADDRESS=cluster.address) as second:
        wait_for(lambda: done() >= kept + 3, second)
        cluster.lose_node(cluster.raylet)  # type: ignore[attr-defined]
        out, err = second.communicate(timeout=LIMIT)
    assert second.returncode == 0, err
    assert same(tmp_path / "alone", tmp_path / "shared")
    assert seen.read_text().count("shard") <= 2 * DOCUMENTS - kept + 2  # what was done is not done again
    assert told(err) == told(alone.stderr)
    assert len(told(err)) == 2 * PARTS
    assert "n2.wav" in told(err)[0]  # in the cohort's order
    assert out.splitlines()[-3:-1] == alone.stdout.splitlines()[:-1]  # Ray tells of the lost node before
    assert not partial.exists()
    cluster.raylet = cluster.add_node()  # type: ignore[attr-defined]


DAMAGE = """
from pathlib import Path
from hilbert import extraction
from hilbert.cohort import Cohort
from hilbert.errors import InputError
from tune.extract import extract

def refused(encode, cohort, **names):
    try:
        encode(cohort, Path(encode.__module__), **names)
    except InputError as error:
        return str(error)

names = {"audio": "opensmile:eGeMAPSv02", "text": "hf:bert"}
damaged = sorted(Path("cohort/audio").iterdir())[3]
good = damaged.read_bytes()
damaged.write_bytes(b"damaged")
here, there = (refused(encode, Cohort.load("cohort", check_audio=False), **names)
               for encode in (extraction.extract, extract))
assert here == there and "--on-error skip" in here, (here, there)
damaged.write_bytes(good)
for encode in (extraction.extract, extract):
    assert refused(encode, Cohort.load("cohort"), **names) is None
unknown = refused(extract, Cohort.load("cohort"), text="hf:./nowhere")
assert "no such folder" in unknown and "(on node " in unknown, unknown
"""


def test_real_encoders_and_damage_that_is_not_accepted(cluster: RayCluster, tmp_path: Path) -> None:
    shutil.copytree(MINI, tmp_path / "cohort")
    tiny_models.make("bert", tmp_path / "bert")
    done = run([sys.executable, "-c", DAMAGE], folder=tmp_path, RAY_ADDRESS=cluster.address)
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "hilbert.extraction", tmp_path / "tune.extract")


def test_work_that_kills_every_process_is_given_up(cluster: RayCluster, tmp_path: Path) -> None:
    cohorts.write_cohort(tmp_path / "cohort")
    name = f"slow:text?deadly=1&seen={tmp_path / 'seen'}"
    segments = cohorts.SEGMENTS.replace("0.5,1.0,", "0.5,1.0,words").replace("two.wav,,,", "two.wav,,,words")
    cohorts.write_cohort(tmp_path / "cohort", segments=segments)
    done = hilbert(
        "extract", "cohort", "store", f"--text={name}", "--workers=2", folder=tmp_path, RAY_ADDRESS=cluster.address
    )
    assert done.returncode == 1, done.stderr
    assert told(done.stderr)[0].startswith("hilbert: encoder processes died 4 times on the same work")


# --- without a cluster -----------------------------------------------------------------------------------------------


class Sizes:
    """Samples of a recording, characters of a text."""

    def __init__(self, modality: str) -> None:
        self.description, self.dim = {"name": "sizes", "modality": modality, "dim": 1}, 1

    def encode(self, segments: Sequence[Any]) -> np.ndarray:
        return np.array([[len(one)] for one in segments], np.float32).reshape(-1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_whoever_encodes_in_whatever_order_the_store_is_the_same(cohort: Path, tmp_path: Path, seed: int) -> None:
    given: dict[str, Any] = {"audio": Sizes("audio"), "text": Sizes("text"), "on_error": "skip"}
    loaded, order = Cohort.load(cohort, check_audio=False), random.Random(seed)
    extraction.extract(loaded, tmp_path / "one", **given)

    def shuffled(folder: Path, work: Any, places: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for left, place in enumerate(order.sample(places, len(places))):
            if order.random() < 0.1:
                raise InterruptedError(left)
            yield from extraction.encode_here(folder, work, [place])

    for _ in range(1000):
        try:
            extraction.extract(loaded, tmp_path / "two", encode=shuffled, **given)
            break
        except InterruptedError:
            assert not (tmp_path / "two").exists()
    assert same(tmp_path / "one", tmp_path / "two")


def test_a_node_with_other_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = cohorts.write_cohort(tmp_path / "cohort")
    name = "opensmile:eGeMAPSv02"
    encoder = encoders.load_encoder(name, modality="audio")
    shard = plan(Cohort.load(folder), {"audio": encoder}).shards[0]
    node = Encoders(Order({"audio": name}, "auto", 16, ".", str(folder), 0, {"audio": encoder.description}))
    row = {"place": 0, "shard": shard}
    assert node(row)["fault"] == ""
    (folder / "sub" / "two.wav").unlink()
    assert f"{folder}/sub/two.wav: unreadable: No such file or directory on this node" in node(row)["fault"]
    cohorts.write_wave(folder / "sub" / "two.wav", 0.5, seed=7)
    assert f"{folder}/sub/two.wav: another file on this node" in node(row)["fault"]
    assert any(isinstance(item.content, Stretch) and item.content.path == "sub/two.wav" for item in shard.items)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers", "0"], "give a number of 1 or more, or all"),
        (["--workers", "many"], "give a number of 1 or more, or all"),
        (["--gpus-per-encoder", "1"], "it needs --workers"),
    ],
)
def test_wrong_options(options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = cli.main(["extract", str(tmp_path), str(tmp_path / "store"), "--text", "x:y", *options])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert says in capsys.readouterr().err
