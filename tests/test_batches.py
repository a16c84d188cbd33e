"""From a store to batches: rows, moments, segment dropout; all against naive loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import AUDIO_DIM, Segments, Store, make_store, split

from hilbert.batches import gather, make_batch, moments, segment_rows, thin
from hilbert.errors import StoreError
from hilbert.features import FeatureStore

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=8)


@given(LENGTHS, st.data())
def test_segment_rows_are_the_documents_rows_in_order(lengths, data):
    offsets = np.cumsum([0, *lengths])
    documents = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=9))
    rows, found = segment_rows(offsets, np.array(documents, dtype=np.int64))
    assert rows.tolist() == [row for i in documents for row in range(offsets[i], offsets[i + 1])]
    assert found.tolist() == [lengths[i] for i in documents]


@given(LENGTHS, st.floats(0, 0.999), st.integers(0, 100))
def test_thinning_keeps_a_segment_of_every_document_that_has_one(lengths, drop, seed):
    lengths = np.array(lengths)
    stay = thin(lengths, drop, np.random.default_rng(seed))
    left = [int(part.sum()) for part in np.split(stay, np.cumsum(lengths)[:-1])]
    assert all((kept >= 1) == (length >= 1) and kept <= length for kept, length in zip(left, lengths, strict=True))
    if drop == 0:
        assert stay.all()


def test_thinning_drops_the_given_share():
    stay = thin(np.full(50, 400), 0.3, np.random.default_rng(0))
    assert 0.68 < stay.mean() < 0.72
    always = thin(np.full(5000, 1), 0.9, np.random.default_rng(0))
    assert always.all()
    which = thin(np.full(5000, 2), 0.999, np.random.default_rng(0)).reshape(-1, 2).mean(0)
    assert (which > 0.45).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_batch_holds_its_documents_features_and_labels(dtype):
    store = make_store(9, missing=0.2, dtype=dtype)
    values = np.arange(9.0)
    values[4] = np.nan
    batch = make_batch(store, {"score": values}, [4, 0, 8, 4])
    assert len(batch) == 4
    for name in ("audio", "text"):
        sequence = getattr(batch, name)
        assert sequence.values.dtype == torch.float32
        for found, document in zip(split(sequence), [4, 0, 8, 4], strict=True):
            assert np.array_equal(found.numpy(), getattr(store, name)[document])
    assert torch.equal(batch.labels["score"].nan_to_num(-1), torch.tensor([-1.0, 0.0, 8.0, -1.0]))


def test_segment_dropout_keeps_the_order_and_the_features_of_what_stays():
    store = make_store(20, missing=0.2, longest=9)
    documents, lengths = np.arange(20), np.diff(store.audio.offsets)
    thinned = gather(store.audio, documents, segment_dropout=0.5, rng=np.random.default_rng(0))
    assert 0.3 < int(thinned.lengths.sum()) / lengths.sum() < 0.8
    assert torch.equal(thinned.present, torch.from_numpy(lengths > 0))
    for found, document in zip(split(thinned), documents, strict=True):
        rows = [row.tobytes() for row in store.audio[document]]
        places = [rows.index(row.tobytes()) for row in found.numpy()]
        assert places == sorted(set(places))


def test_a_store_on_disk_gives_the_same_batch(tmp_path):
    light = make_store(9, missing=0.2)
    arrays = {name: getattr(light, name).split() for name in ("audio", "text")}
    store = FeatureStore.write(tmp_path / "store", documents=light.documents, **arrays)
    for name in ("audio", "text"):
        found, expected = (getattr(make_batch(one, {}, np.arange(9)), name) for one in (store, light))
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.lengths, expected.lengths)
        for one, other in zip(
            moments(getattr(store, name), np.arange(3, 9)), moments(getattr(light, name), np.arange(3, 9)), strict=True
        ):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("name", ["audio", "text"])
def test_a_store_without_a_modality_is_refused(name):
    store = make_store(4)
    lacks = Store(**{"audio": store.audio, "text": store.text, "documents": store.documents, name: None})
    with pytest.raises(StoreError, match=f"no {name} features"):
        make_batch(lacks, {}, [0])


# ---- moments ---------------------------------------------------------------------------------------------------------


def naive_moments(source: Segments, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.concatenate([source[i] for i in documents]).astype(np.float64)
    return rows.mean(0), rows.std(0)


@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_moments_equal_numpy_s_in_chunks_of_any_size(chunk, dtype):
    source = make_store(30, missing=0.3, dtype=dtype).audio
    documents = np.arange(5, 25)
    for found, expected in zip(moments(source, documents, chunk=chunk), naive_moments(source, documents), strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 3000), st.integers(2, 40), st.integers(0, 9))
def test_moments_are_the_same_to_the_last_bit_however_little_is_in_memory_at_once(block, dims, seed):
    source, documents = make_store(40, audio_dim=dims, missing=0.2, seed=seed).audio, np.arange(3, 40)
    for found, expected in zip(moments(source, documents, block=block), moments(source, documents), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(("scale", "offset"), [(1e4, 0), (50.0, 3e4), (1e-8, 0), (1e-8, 1e-7), (1e10, 1e12)])
def test_moments_do_not_care_about_units(scale, offset):
    """A feature in small units varies as much as one in large units; a large mean does not swallow the deviation."""
    dtype = np.float16 if max(scale, offset) < 1e5 and scale >= 1 else np.float32
    values = (np.random.default_rng(0).standard_normal((500, 3)) * scale + offset).astype(dtype)
    source = Segments(values, np.arange(0, 501, 10))
    for found, expected in zip(moments(source, np.arange(50)), naive_moments(source, np.arange(50)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e4])
def test_a_dimension_that_does_not_vary_has_deviation_1(constant):
    source = make_store(20).audio
    source.values[:, 2] = constant
    mean, deviation = moments(source, np.arange(20), chunk=3)
    assert deviation[2] == 1
    assert mean[2] == pytest.approx(constant, rel=1e-6)
    assert (deviation[:2] != 1).all()


def test_moments_see_only_their_documents():
    """Not even the rounding may come from elsewhere: a held-out outlier is not training's business."""
    store = make_store(20)
    wild = store.with_features(range(5), lambda x: np.full_like(x, 3e38))
    for found, expected in zip(
        moments(wild.audio, np.arange(5, 20)), moments(store.audio, np.arange(5, 20)), strict=True
    ):
        assert np.array_equal(found, expected)


def test_moments_of_nothing_leave_features_as_they_are():
    empty = Segments(np.zeros((0, AUDIO_DIM), np.float32), np.zeros(4, np.int64))
    lacking = make_store(10, missing=0.3).audio
    gone = np.flatnonzero(np.diff(lacking.offsets) == 0)
    for source, documents in ((empty, np.arange(3)), (lacking, gone), (lacking, gone[:0])):
        mean, deviation = moments(source, documents)
        assert not mean.any()
        assert (deviation == 1).all()
