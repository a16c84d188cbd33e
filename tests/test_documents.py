"""Features in memory: the same as a store of the same arrays, and every fault named with its document."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import TASKS, fit_config, make_fold, make_model, make_store

from hilbert.batches import make_batch
from hilbert.documents import Documents
from hilbert.errors import InputError
from hilbert.prediction import predict
from hilbert.training import fit

A, T = np.ones((2, 3)), np.ones((1, 2))


def pairs_of(store):
    both = zip(store.audio.split(), store.text.split(), strict=True)
    return [(a if len(a) else None, t if len(t) else None) for a, t in both]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any), min_size=1, max_size=6), st.randoms())
@settings(max_examples=50, deadline=None)
def test_every_document_comes_back_as_it_went_in(lengths, random):
    rng = np.random.default_rng(random.randint(0, 9999))
    dtype = random.choice([np.float16, np.float32, np.float64])
    pairs = [(rng.normal(size=(a, 3)).astype(dtype), rng.normal(size=(t, 2)).astype(dtype)) for a, t in lengths]
    given_pairs = [tuple(x if len(x) or random.random() < 0.5 else None for x in pair) for pair in pairs]
    documents = Documents.of(given_pairs, audio_dim=3, text_dim=2)
    assert len(documents) == len(documents.audio) == len(documents.text) == len(pairs)
    for number, (audio, text) in enumerate(pairs):
        for found, expected in ((documents.audio[number], audio), (documents.text[number], text)):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_a_batch_of_it_is_that_of_the_store():
    store = make_store(12, missing=0.2)
    documents = Documents.of(pairs_of(store))
    chosen = [7, 0, 3, 11]
    found, expected = (make_batch(one, {}, chosen) for one in (documents, store))
    for part in ("audio", "text"):
        assert torch.equal(getattr(found, part).values, getattr(expected, part).values)
        assert torch.equal(getattr(found, part).lengths, getattr(expected, part).lengths)


def test_a_fit_on_it_is_that_on_the_store():
    store, fold, config = make_store(48, missing=0.1, unlabelled=0.2), make_fold(48), fit_config(tasks=TASKS, epochs=1)
    labels = store.documents.drop(columns="document_id").set_index(np.arange(100, 148))
    documents = Documents.of(pairs_of(store), names=list(store.documents["document_id"]), labels=labels)
    found, expected = (fit(config, one, fold) for one in (documents, store))
    assert found.document_ids == expected.document_ids
    assert all(np.array_equal(found.scores[task], expected.scores[task]) for task in TASKS)


def test_it_holds_copies_and_takes_all_that_is_numbers():
    audio = np.ones((2, 3), np.float32)
    forms = [audio, audio.tolist(), torch.from_numpy(audio), audio.astype(np.int8), np.asfortranarray(audio)]
    documents = Documents.of([*[(form, T) for form in forms], [None, T.tolist()], (np.zeros((0, 9)), T), ([], T)])
    audio[:] = 7
    assert all((documents.audio[number] == 1).all() for number in range(len(forms)))
    assert np.diff(documents.audio.offsets).tolist() == [2] * len(forms) + [0, 0, 0]


def test_rows_of_an_object_array_are_pairs():
    table = np.empty((2, 2), dtype=object)
    table[0, 0], table[0, 1], table[1, 1] = A, T, T
    documents = Documents.of(table)
    assert np.diff(documents.audio.offsets).tolist() == [2, 0]


def test_a_model_predicts_documents_without_audio():
    store, model = make_store(6), make_model(dtype=torch.float32)
    texts = Documents.of([(None, text) for text in store.text.split()], audio_dim=7, text_dim=4)
    assert predict(model, texts, np.arange(6)).logits["spectrum"].shape == (6, 3)


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([], {}, "one document at least"),
        ([(A, T), A], {}, r"document '1': must be a pair .*, not float64 \[2, 3\]"),
        ([(A, T, T)], {"names": ["anna"]}, "document 'anna': must be a pair .*, not tuple of 3"),
        (["ab"], {}, "document '0': must be a pair .*, not str$"),
        ([(A, T), (None, None)], {}, "document '1': has neither audio nor text"),
        ([(A, T), (A[:0], [])], {}, "document '1': has neither audio nor text"),
        ([(A, T), (A[:, :2], T)], {}, "audio of document '1': 2 features a segment where document '0' has 3"),
        ([(A, T)], {"text_dim": 5}, "text of document '0': 2 features a segment where the model has 5"),
        ([(None, T)], {}, "no document has audio features"),
        ([(A[0], T)], {}, r"audio of document '0': must be numbers .*, not float64 \[3\]"),
        ([(A, np.array([["x"]]))], {}, "text of document '0': must be numbers"),
        ([(A, 3.0)], {}, r"text of document '0': must be numbers .*, not float64 \[\]"),
        ([(A, np.zeros((2, 0)))], {}, r"text of document '0': must be numbers .*, not float64 \[2, 0\]"),
        ([(A, T), ([[1.0], [1.0, 2.0]], T)], {}, "audio of document '1': not an array of numbers"),
        ([(A, [[1.0, np.nan]])], {}, "text of document '0': segment 0, feature 1 is nan; all must be finite"),
        ([(A, [[1.0, 1e300]])], {}, r"feature 1 is 1e\+300; all must be finite float32"),
        ([(A, T)], {"names": ["a", "b"]}, "2 names for 1 documents"),
        ([(A, T)] * 3, {"names": ["a", "b", "a"]}, "document 'a': named twice"),
        ([(A, T)], {"labels": pd.DataFrame({"y": [1, 2]})}, "2 rows of labels for 1 documents"),
        ([(A, T)], {"labels": pd.DataFrame({"document_id": [1]})}, "must not hold document_id"),
    ],
)
def test_wrong_input_is_named(pairs, options, message):
    with pytest.raises(InputError, match=message):
        Documents.of(pairs, **options)
