"""From a folder of recordings to a ranked table, on the most awkward cohort that is still legal."""

import csv
import io

import numpy as np
import pytest
import soundfile
import tiny_models
import yaml
from sweeps import hilbert

pytestmark = pytest.mark.timeout(400)

SAYINGS = ("we call it bear", "zero three five one", "élan vital, naïveté", "a", "the longest of them all " * 60)


def write_awkward_cohort(folder, documents=36):
    """Families, missing labels of every kind, a rare class, missing modalities, odd sound files, odd names."""
    rng = np.random.default_rng(0)
    (folder / "töne").mkdir(parents=True)
    labels, segments = [], []
    for number in range(documents):
        name, male = f"P-{number:03d} é", number % 2
        family = f"family {number // 3}" if number % 5 else ""
        stage = "" if number % 7 == 0 else "late" if number % 11 == 3 else ("early", "mid")[number % 3 == 0]
        größe = "" if number % 4 == 3 else f"{150 + 20 * male + rng.normal():.2f}"
        labels.append(
            [name, family, "" if number % 6 == 5 else ("no", "yes")[male], stage, größe, "free, text; with 'quotes'"]
        )
        rate, channels = (44_100, 2) if number % 3 else (8_000, 1)
        if number % 9 != 4:  # every ninth document has no audio
            t = np.arange(round(2.4 * rate)) / rate
            tone = 0.2 * np.sin(2 * np.pi * (120 + 80 * male) * t) + 0.02 * rng.normal(size=len(t))
            ending = ("wav", "flac", "ogg")[number % 3]
            soundfile.write(folder / "töne" / f"{number}.{ending}", np.repeat(tone[:, None], channels, axis=1), rate)
            segments.append([name, 5, f"töne/{number}.{ending}", "0.25", "1.9", ""])
            segments.append([name, 2, f"töne/{number}.{ending}", "", "", ""])
        if number % 9 != 7 or number % 9 == 4:  # another ninth has no words
            segments += [
                [name, 10 + place, "", "", "", SAYINGS[(number + place) % 5]] for place in range(1 + number % 3)
            ]
    write_table(folder / "documents.csv", ["document_id", "group_id", "ill", "stage", "größe", "notes"], labels)
    write_table(folder / "segments.csv", ["document_id", "segment", "audio", "start", "end", "text"], segments)
    return folder


def write_table(path, header, rows):
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_an_awkward_cohort_goes_the_whole_path(tmp_path):
    write_awkward_cohort(tmp_path / "cohort")
    tiny_models.bert(tmp_path / "bert")
    extract = ("extract", "cohort", "features", "--audio", "opensmile:eGeMAPSv02", "--text", "hf:bert", "--window", "1")
    done = hilbert(*extract, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "audio: " in done.stdout
    study = {
        "study": "awkward",
        "features": "features",
        "tasks": {
            "ill": "binary",
            "stage": {"kind": "multiclass", "classes": ["early", "mid", "late"]},
            "größe": "regression",
        },
        "folds": {"n_splits": 3, "repeats": 2},
        "trials": 2,
        "objective": "pooled_auc",
        "racing": "none",
        "model": {"width": 16, "heads": 2, "expert_width": 8, "top_k": 1, "modality_source": "cross", "hops": 2},
        "loss": {"class_weighting": "logit-adjusted", "learned_temperature": True},
        "train": {"epochs": 4, "patience": 2, "refit": True, "monitor": "auc", "segment_dropout": 0.5},
        "search": {"model.experts": {"choices": [1, 2, 4]}, "loss.mi_estimator": {"choices": ["infonce", "gaussian"]}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, allow_unicode=True, sort_keys=False), encoding="utf-8")
    done = hilbert("sweep", "study.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = hilbert("compare", "awkward", "--csv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["status"] for row in rows] == ["FINISHED", "FINISHED"]
    for row in rows:
        assert row["cv/folds_done"] == "6"
        assert 0 < float(row["größe/auc_pooled"]) < 1
        assert 0 <= int(row["stage/auc_folds"]) <= 6
    assert float(rows[0]["cv/auc_pooled"]) >= float(rows[1]["cv/auc_pooled"])
    done = hilbert("report", "awkward", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "awkward-report.html").read_text(encoding="utf-8")
    assert "größe" in page
    assert "P-00" not in page  # no document's id
