"""The feature store: what is written is what is read, in this process and in others, and damage never passes."""

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hilbert.errors import StoreError
from hilbert.features import FeatureStore

DEMO = Path(__file__).parent.parent / "demo" / "speechocean"


def documents(count: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "document_id": [f"d{number}" for number in range(count)],
            "group_id": ["g", None, "g"][:count] + [None] * (count - 3),
            "affect": ["no", None, "yes"][:count] + [None] * (count - 3),
        }
    )


def features(*lengths: int, dim: int = 4, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, dim)).astype(np.float32) for length in lengths]


def write(folder: Path, **more: Any) -> FeatureStore:
    given: dict[str, Any] = {"documents": documents(), "audio": features(2, 0, 3), "text": features(1, 2, 2, dim=3)}
    return FeatureStore.write(folder, **(given | more))


@st.composite
def ragged(draw: st.DrawFn, count: int, dtype: str) -> list[np.ndarray]:
    dim = draw(st.integers(1, 4))
    values = st.floats(-1e4, 1e4, width=16 if dtype == "float16" else 32)
    rows = st.integers(0, 3).flatmap(lambda length: hnp.arrays(dtype, (length, dim), elements=values))
    return draw(st.lists(rows, min_size=count, max_size=count))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(data=st.data(), count=st.integers(1, 4), dtype=st.sampled_from(["float16", "float32"]))
def test_reads_back_what_was_written(tmp_path: Path, data: st.DataObject, count: int, dtype: Any) -> None:
    audio, text = data.draw(ragged(count, dtype)), data.draw(ragged(count, dtype))
    text = [
        rows if len(rows) or len(audio[place]) else np.ones((1, rows.shape[1]), dtype)
        for place, rows in enumerate(text)
    ]
    store = FeatureStore.write(
        tmp_path / "store", documents=documents(count), audio=audio, text=text, dtype=dtype, overwrite=True
    )
    assert len(store) == count
    assert (store.audio_dim, store.text_dim) == (audio[0].shape[1], text[0].shape[1])
    for part, expected in ((store.audio, audio), (store.text, text)):
        assert part is not None
        assert part.values.dtype == dtype
        assert part.lengths.tolist() == [len(rows) for rows in expected]
        for place, rows in enumerate(expected):
            np.testing.assert_array_equal(part[place], rows)
            numbers = part.segments[part.offsets[place] : part.offsets[place + 1]]
            assert numbers.tolist() == list(range(len(rows)))
    FeatureStore.open(tmp_path / "store", verify="sha256")


def test_a_part_is_a_store_of_the_same_rows(tmp_path: Path) -> None:
    numbers = [[4, 7], [], [1, 1, 9]]
    whole = write(tmp_path / "whole", audio_encoder="mine", audio_segments=numbers, dtype="float16")
    part = whole.write_part(tmp_path / "part", [2, 0])
    assert part.document_ids == [whole.document_ids[2], whole.document_ids[0]]
    assert part.encoders == whole.encoders
    assert part.audio is not None
    assert whole.audio is not None
    assert part.audio.values.dtype == np.float16
    assert part.audio.segments.tolist() == [1, 1, 9, 4, 7]
    np.testing.assert_array_equal(part.audio[0], whole.audio[2])
    assert part.documents.drop(columns="document_id").equals(
        whole.documents.drop(columns="document_id").iloc[[2, 0]].reset_index(drop=True)
    )


def test_documents_keep_labels_groups_and_gaps(tmp_path: Path) -> None:
    frame = documents().assign(score=[1.0, None, 3.0], share=[0.25, 1.5, None], comment=['a, "b"', "ä\nö", ""])
    store = write(tmp_path / "store", documents=frame)
    assert store.document_ids == ["d0", "d1", "d2"]
    assert store.documents["affect"].tolist() == ["no", None, "yes"]
    assert store.documents["score"].tolist() == ["1", None, "3"]  # a class "1", not "1.0", however pandas held it
    assert store.documents["share"].tolist() == ["0.25", "1.5", None]
    assert store.documents["comment"].tolist() == ['a, "b"', "ä\nö", None]
    groups = store.groups
    assert groups[0] == groups[2] != groups[1]


def test_without_group_column_everybody_is_alone(tmp_path: Path) -> None:
    store = write(tmp_path / "store", documents=documents().drop(columns="group_id"))
    assert len(set(store.groups)) == 3


def test_one_modality_is_enough(tmp_path: Path) -> None:
    store = write(tmp_path / "store", text=None, audio=features(1, 1, 1))
    assert store.text is None
    assert store.text_dim == 0
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "audio.npy",
        "audio_offsets.npy",
        "audio_segments.npy",
        "documents.csv",
        "manifest.json",
    ]


def test_transcripts_and_paths_stay_out(tmp_path: Path) -> None:
    frame = documents().assign(Transcript=["secret words"] * 3, audio=["secret.wav"] * 3)
    store = write(tmp_path / "store", documents=frame)
    assert list(store.documents.columns) == ["document_id", "group_id", "affect"]
    for path in store.folder.iterdir():
        assert b"secret" not in path.read_bytes()


def test_no_pickle_anywhere(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    for path in store.folder.glob("*.npy"):
        assert np.load(path, allow_pickle=False).dtype.hasobject is False


def test_features_are_mapped_and_read_only(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    assert store.audio is not None
    assert isinstance(store.audio.values, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.audio.values[0, 0] = 1.0


def test_ragged_indices_are_checked(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    assert store.audio is not None
    np.testing.assert_array_equal(store.audio[-1], store.audio[2])
    with pytest.raises(IndexError):
        store.audio[3]


def _sum_elsewhere(store: FeatureStore) -> float:
    assert store.audio is not None
    return float(store.audio.values.sum(dtype=np.float64))


def test_travels_to_other_processes_as_a_path(tmp_path: Path) -> None:
    store = write(tmp_path / "store", audio=features(200, 300, 400, dim=64))
    assert len(pickle.dumps(store)) < 1_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum_elsewhere, (store,)) == _sum_elsewhere(store)


def test_a_store_that_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    frozen = pickle.dumps(write(tmp_path / "store"))
    write(tmp_path / "store", audio=features(2, 0, 3, seed=1), overwrite=True)
    with pytest.raises(StoreError, match="has changed since"):
        pickle.loads(frozen)


def test_fingerprint_is_that_of_labels_and_features(tmp_path: Path) -> None:
    one, same = write(tmp_path / "a"), write(tmp_path / "b", cohort={"fingerprint": "x"}, audio_encoder="hf:x")
    assert one.fingerprint == same.fingerprint
    others = [
        write(tmp_path / "c", documents=documents().assign(affect=["no", "no", "yes"])),
        write(tmp_path / "d", audio=features(2, 0, 3, seed=1)),
        write(tmp_path / "e", audio=features(2, 1, 2)),
        write(tmp_path / "f", dtype="float16"),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_written_twice_the_bytes_are_the_same(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a"), write(tmp_path / "b")
    assert [path.name for path in sorted(one.folder.iterdir())] == [path.name for path in sorted(two.folder.iterdir())]
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes()


def test_other_contents_are_not_overwritten_by_accident(tmp_path: Path) -> None:
    first = write(tmp_path / "store")
    again = write(tmp_path / "store")  # the same contents: nothing to do
    assert again.fingerprint == first.fingerprint
    with pytest.raises(StoreError, match="other contents"):
        write(tmp_path / "store", dtype="float16")
    assert FeatureStore.open(tmp_path / "store", verify="sha256").fingerprint == first.fingerprint
    assert write(tmp_path / "store", dtype="float16", overwrite=True).fingerprint != first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(StoreError, match="not a feature store"):
        write(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        write(tmp_path / "file", overwrite=True)


def test_a_failed_write_leaves_the_old_store_and_no_litter(tmp_path: Path) -> None:
    first = write(tmp_path / "store")
    broken = features(2, 0, 3)
    broken[2][1, 1] = np.nan
    with pytest.raises(StoreError, match="audio of document 'd2': holds values that are not finite"):
        write(tmp_path / "store", audio=broken, overwrite=True)
    assert FeatureStore.open(tmp_path / "store", verify="sha256").fingerprint == first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_new_labels_leave_the_features_alone(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    before = (store.folder / "audio.npy").read_bytes()
    new = store.with_documents(documents().assign(affect=["yes", "yes", "no"]), cohort={"fingerprint": "new"})
    assert new.documents["affect"].tolist() == ["yes", "yes", "no"]
    assert new.manifest["cohort"] == {"fingerprint": "new"}
    assert (new.folder / "audio.npy").read_bytes() == before
    assert new.fingerprint != store.fingerprint
    FeatureStore.open(tmp_path / "store", verify="sha256")
    with pytest.raises(StoreError, match="same documents"):
        store.with_documents(documents()[::-1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"audio": features(2, 0)}, "2 arrays for 3 documents"),
        ({"audio": [*features(2, 0), *features(1, dim=5)]}, "number of features differs between documents"),
        ({"audio": [np.zeros(4)] * 3}, "an array of numbers [S_i, D] is needed"),
        ({"audio": [np.array([["a"]])] * 3}, "an array of numbers [S_i, D] is needed"),
        ({"audio": None, "text": None}, "give audio, text or both"),
        ({"audio": None, "text": features(1, 0, 1)}, "neither audio nor text features: d1"),
        ({"dtype": "float16", "audio": [rows * 1e6 for rows in features(2, 0, 3)]}, "store these features as float32"),
        ({"dtype": "float64"}, "float32 or float16"),
        ({"documents": documents().assign(document_id=["a", "b", "a"])}, "'a' appears twice"),
        ({"documents": documents().assign(document_id=["a", None, "c"])}, "row 2 has no document_id"),
        ({"documents": documents().drop(columns="document_id")}, "needs a column 'document_id'"),
        ({"audio_segments": [[0], [], [0, 1, 2]]}, "'d0': 1 segment numbers for 2 segments"),
    ],
)
def test_features_that_do_not_fit(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(StoreError) as caught:
        write(tmp_path / "store", **wrong)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_byte_is_found_by_its_hash(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    data = bytearray((store.folder / "audio.npy").read_bytes())
    data[-1] ^= 1
    (store.folder / "audio.npy").write_bytes(data)
    FeatureStore.open(tmp_path / "store")  # the quick look can't see it
    with pytest.raises(StoreError, match=r"audio\.npy: its contents have changed"):
        FeatureStore.open(tmp_path / "store", verify="sha256")


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    first = write(tmp_path / "store")
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    assert FeatureStore.open(tmp_path / "elsewhere").fingerprint == first.fingerprint


def test_the_demo_store_is_whole() -> None:
    store = FeatureStore.open(DEMO, verify="sha256")
    assert (len(store), store.audio_dim, store.text_dim) == (125, 88, 384)
    assert set(store.documents["gender"]) == {"f", "m"}
    assert store.audio is not None
    assert store.audio.lengths.tolist() == [20] * 125
    assert "/" not in json.dumps(store.manifest["cohort"])
