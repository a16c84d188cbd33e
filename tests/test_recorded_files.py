"""What comes out of MLflow, and cluster files: damage is a fault with its key, and no changed bit goes unnoticed."""

import json
import os

import pandas as pd
import pytest

from hilbert.errors import InputError
from hilbert.reading import Damaged, Fault
from tune.cluster import read_cluster_file
from tune.recorded import CHECKED, read_configuration, read_data, read_predictions

TABLE = pd.DataFrame(
    {
        "document_id": ["a", "a", "b", "b"],
        "fold": [0, 0, 1, 1],
        "task": ["x"] * 4,
        "label": ["yes", "yes", None, None],
        "class": ["no", "yes"] * 2,
        "score": [0.25, 0.75, 0.125, 0.875],
    }
)


def test_a_changed_bit_of_predictions_is_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    TABLE.to_parquet(path, **CHECKED)
    content, noticed = path.read_bytes(), 0
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            found = read_predictions(path)
        except Damaged:
            noticed += 1
            continue
        assert found.to_csv(index=False) == TABLE.to_csv(index=False), place
    assert noticed > len(content) / 10
    TABLE.to_parquet(path, index=False)  # as the version before wrote it
    pd.testing.assert_frame_equal(read_predictions(path), TABLE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="score"), "no column 'score'"),
        (lambda table: table.assign(fold=["0", "0", "1", "1"]), "'fold' holds string"),
        (lambda table: table.assign(score=["1"] * 4), "'score' holds string"),
        (lambda table: table.assign(document_id=[1, 1, 2, 2]), "'document_id' holds integer"),
        (lambda table: table.assign(label=[1.0, 1.0, None, None]), "'label' holds floating"),
    ],
)
def test_tables_of_other_kinds(tmp_path, change, words):
    change(TABLE).to_parquet(tmp_path / "x.parquet", index=False)
    with pytest.raises(Damaged, match=words):
        read_predictions(tmp_path / "x.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(99) + b"PAR1", b"document_id,fold\n"])
def test_what_is_no_table(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(Damaged):
        read_predictions(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").unlink()
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(Damaged):
        read_predictions(tmp_path / "x.parquet")


DATA = {"tasks": {"x": {"kind": "binary", "classes": {"no": 1, "yes": 2}}}, "folds": {"n_splits": 5, "repeats": 1}}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"folds": {"n_splits": 10**9, "repeats": 1}}, "folds.n_splits"),
        ({"folds": {"n_splits": 0, "repeats": 1}}, "folds.n_splits"),
        ({"folds": [5, 1]}, "folds"),
        ({"tasks": {"x": {"kind": "ternary"}}}, "tasks.x.kind"),
        ({"tasks": {"x": {"kind": "binary", "classes": ["no"]}}}, "tasks.x.classes"),
    ],
)
def test_data_that_no_study_has(tmp_path, change, key):
    (tmp_path / "data.json").write_text(json.dumps(DATA))
    assert read_data(tmp_path / "data.json") == DATA
    (tmp_path / "data.json").write_text(json.dumps(DATA | change))
    with pytest.raises(Damaged, match=key):
        read_data(tmp_path / "data.json")
    with pytest.raises(Fault, match="missing"):
        read_configuration(tmp_path / "configuration.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "provider: [1]",
        "provider: {type: local, worker_ips: 5}",
        "provider: {type: local}\nfile_mounts: [a, b]",
        "provider: {type: local}\nfile_mounts: {~/x: 5}",
        "provider: {type: local}\nauth: me",
        "provider: {type: aws}\navailable_node_types: {w: {min_workers: many}}",
        "provider: {type: aws}\navailable_node_types: {w: 3}",
        "provider: {at: 2024-13-45}",
        "provider: " + "[" * 100_000,
        "provider: {type: local}\nfile_mounts: {~/x: ~nobody-of-this-name/y}",
        "\udcff",
    ],
)
def test_cluster_files_that_are_none(tmp_path, text):
    path = tmp_path / "lab.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"lab\.yaml") as caught:
        read_cluster_file(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_cluster_file_that_is_no_file(tmp_path, make):
    make(tmp_path / "lab.yaml")
    with pytest.raises(InputError, match=r"lab\.yaml: damaged"):
        read_cluster_file(tmp_path / "lab.yaml")
