"""A cohort's cells are understood, or refused with their rows, and what was done is told with counts."""

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cohorts import store_as_before, write_wave
from sweeps import Here
from tiny_models import make

from hilbert.cohort import Cohort
from hilbert.columns import column_report
from hilbert.errors import CohortError, StoreError
from hilbert.features import FeatureStore

Log = pytest.LogCaptureFixture


def write(folder: Path, documents: str, segments: str | None = None) -> Path:
    """A cohort of words alone; each document says something unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [line.split(",")[0] for line in documents.splitlines()[1:]]
    said = segments or "document_id,segment,text\n" + "".join(f"{name},0,we call it bear\n" for name in names)
    (folder / "documents.csv").write_text(documents, encoding="utf-8", newline="")
    (folder / "segments.csv").write_text(said, encoding="utf-8", newline="")
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(CohortError) as caught:
        Cohort.load(folder)
    return str(caught.value)


def test_codes_are_no_family_and_stay_in_labels_for_a_task_to_say(tmp_path: Path, caplog: Log) -> None:
    documents = 'document_id,group_id,sev\n"a","f1","mild"\n"b",NA,NA\n"c",NA,"none"\n"d",unknown,.\n"e",f1,mild\n'
    cohort = Cohort.load(write(tmp_path, documents, "document_id,segment,text\na,0,x\nb,0,x\nc,0,x\nd,0,x\ne,0,x\n"))
    assert cohort.documents["group_id"].tolist() == ["f1", None, None, None, "f1"]
    assert cohort.documents["sev"].tolist() == ["mild", "NA", "none", ".", "mild"]
    assert "group_id: NA 2, unknown 1: no group" in caplog.text


def test_a_broken_formula_is_no_family(tmp_path: Path) -> None:
    told = refused(write(tmp_path, "document_id,group_id\na,f1\nb,#REF!\n"))
    assert "documents.csv row 3: group_id is '#REF!', a broken formula" in told


def test_codes_are_no_spoken_words_and_no_times(tmp_path: Path, caplog: Log) -> None:
    write_wave(tmp_path / "a.wav")
    segments = (
        "document_id,segment,audio,start,end,text\n"
        "a,0,a.wav,NA,NA,NA\na,1,NA,NA,NA,none\na,2,a.wav,0,0.5,#N/A\na,3,,,,NA and more\n"
    )
    cohort = Cohort.load(write(tmp_path, "document_id\na\n", segments))
    assert cohort.segments["text"].tolist() == [None, "none", None, "NA and more"]
    assert cohort.segments["audio"].tolist() == ["a.wav", None, "a.wav", None]
    assert cohort.segments["start"].isna().tolist() == [True, True, False, True]
    for told in ("text: NA 1, #N/A 1: nothing is said", "text: none 1: taken as spoken", "audio: NA 1", "start: NA 2"):
        assert told in caplog.text


def test_a_row_of_nothing_but_codes_is_refused_with_its_row(tmp_path: Path, caplog: Log) -> None:
    told = refused(write(tmp_path, "document_id\na\nb\n", "document_id,segment,text\na,0,x\nb,0,NA\n"))
    assert "segments.csv row 3: neither audio nor text" in told
    assert "text: NA 1" in caplog.text


@pytest.mark.parametrize("code", ["NA", "nan", "NULL", "-", "?", "#REF!", "none"])
def test_a_code_is_no_document(tmp_path: Path, code: str) -> None:
    told = refused(write(tmp_path, f"document_id,y\na,1\n{code},2\n"))
    assert f"documents.csv row 3: document_id is '{code}', which stands for a missing value" in told


def test_composed_and_decomposed_names_are_one_person_and_one_file(tmp_path: Path, caplog: Log) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    write_wave(tmp_path / "clips" / f"{decomposed}.wav")
    documents = f"document_id,group_id\n{decomposed},fam\nb\u200b,fam\u200b\n"
    segments = f"document_id,segment,audio,text\n{composed},0,clips/{composed}.wav,\nb,0,,x\n"
    cohort = Cohort.load(write(tmp_path, documents, segments))
    assert cohort.document_ids == [composed, "b"]
    assert cohort.documents["group_id"].tolist() == ["fam", "fam"]
    assert cohort.segments["audio"].tolist() == [f"clips/{decomposed}.wav", None]
    assert "document_id: 2 cells held invisible or decomposed characters (U+0308, U+200B)" in caplog.text
    assert "audio: 1 names are spelled in another Unicode form" in caplog.text


def test_two_forms_of_one_name_are_one_document_twice(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD")]
    told = refused(write(tmp_path, f"document_id\n{forms[0]}\n{forms[1]}\n"))
    assert "documents.csv row 3: document_id 'Zoë' stands already in row 2" in told


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ("document_id\nP1\np1\n", ["row 3", "'p1' and 'P1' (row 2)", "differ in case"]),
        ("document_id\n1\n01\n", ["'01' and '1'"]),
        ("document_id\n1\n1.0\n", ["'1.0' and '1'"]),
        ("document_id,group_id\na,Fam1\nb,fam1\nc,fam1\n", ["group_id: fam1 2, Fam1 1", "both sides of a split"]),
        ("document_id,group_id\na,01\nb,1\n", ["group_id: 01 1, 1 1"]),
        ("document_id,Gender,gender\na,m,m\nb,f,f\n", ["row 1: columns 'Gender' and 'gender' differ in case"]),
        ("document_id,Group_ID\na,1\nb,1\n", ["row 1: column 'Group_ID' is not read: 'group_id' is"]),
        ("document_id,y\u200b,y\na,1,1\nb,2,2\n", ["row 1: column 'y' appears 2 times"]),
    ],
)
def test_what_only_the_user_can_know_is_refused(tmp_path: Path, documents: str, says: list[str]) -> None:
    told = refused(write(tmp_path, documents))
    for part in says:
        assert part in told


def test_one_number_is_one_family(tmp_path: Path, caplog: Log) -> None:
    cohort = Cohort.load(write(tmp_path, "document_id,group_id\na,1\nb,1.0\nc,2\n"))
    assert cohort.documents["group_id"].tolist() == ["1", "1", "2"]
    assert "group_id: 1.0 1: the same groups" in caplog.text


def test_a_group_called_minus_99_is_told(tmp_path: Path, caplog: Log) -> None:
    documents = "document_id,group_id\na,1\nb,2\nc,3\nd,-99\ne,-99\n"
    Cohort.load(write(tmp_path, documents))
    assert "group_id: -99 2: looks like a code" in caplog.text
    cohort = Cohort.load(tmp_path, missing=["-99"])
    assert cohort.documents["group_id"].tolist() == ["1", "2", "3", None, None]


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "1e3", "1.5", "1_0", "²", "NA"])
def test_a_segment_number_that_is_none_is_refused_with_its_row(tmp_path: Path, number: str) -> None:
    told = refused(write(tmp_path, "document_id\na\n", f"document_id,segment,text\na,0,x\na,{number},x\n"))
    assert "segments.csv row 3: segment is '" in told
    assert len(told) < 600


def test_whole_segment_numbers_in_other_spellings_are_read(tmp_path: Path, caplog: Log) -> None:
    cohort = Cohort.load(write(tmp_path, "document_id\na\n", "document_id,segment,text\na,1.0,x\na,٣,y\na,0,z\n"))
    assert cohort.segments["segment"].tolist() == [0, 1, 3]
    assert "segment: 1 numbers are written like 1.0" in caplog.text


@pytest.mark.parametrize("seconds", ["1e400", "inf", '"1,5"', "1_0", "#REF!"])
def test_seconds_that_are_no_number_are_refused_with_their_row(tmp_path: Path, seconds: str) -> None:
    told = refused(write(tmp_path, "document_id\na\n", f"document_id,segment,text,start\na,0,x,{seconds}\n"))
    assert "segments.csv row 2: start is" in told


def test_times_under_another_name_are_not_left_unread(tmp_path: Path) -> None:
    told = refused(write(tmp_path, "document_id\na\n", "document_id,segment,text,Start\na,0,x,1\n"))
    assert "segments.csv row 1: column 'Start' is not read: 'start' is" in told


def test_extract_shows_every_column_and_takes_further_codes(tmp_path: Path, here: Here, caplog: Log) -> None:
    documents = "document_id,group_id,y,age\na,-7,low,34\nb,1,unknown,-99\nc,1,high,999\nd,2,NA,35\n"
    encoder = f"hf:{make('bert', tmp_path / 'bert')}"
    done = here("extract", write(tmp_path / "c", documents), tmp_path / "s", "--text", encoder, "--device", "cpu")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line}
    assert "3 groups, 1 of several documents; 0 documents without" in lines["group_id"]
    assert "low 1, unknown 1, high 1; missing 1 (NA 1)" in lines["y"]
    assert "unknown: a class, or missing?" in lines["y"]
    assert "-99 to 999, 4 distinct; missing 0" in lines["age"]
    assert "-99 1, 999 1: codes for a missing value? The others go from 34 to 35" in lines["age"]
    first = FeatureStore.open(tmp_path / "s")
    assert first.documents["age"].tolist() == ["34", "-99", "999", "35"]
    assert "missing" not in first.manifest["cohort"]
    again = here(
        *("extract", tmp_path / "c", tmp_path / "s", "--text", encoder, "--device", "cpu"),
        *("--missing", "-99", "999.0", "unknown", "-7"),
    )
    assert again.returncode == 0
    assert "age: counted as missing, as told: -99 1, 999 1" in caplog.text
    second = FeatureStore.open(tmp_path / "s")
    assert second.documents["age"].tolist() == ["34", None, None, "35"]
    assert second.documents["y"].tolist() == ["low", None, "high", "NA"]
    assert second.documents["group_id"].tolist() == [None, "1", "1", "2"]
    assert second.manifest["cohort"]["missing"] == ["-99", "999.0", "unknown", "-7"]


def test_the_columns_shown_hold_no_transcripts_and_no_names() -> None:
    rows = [("p1", "so it went", "Anna", "34"), ("p2", "and on", "Bea", "35"), ("p3", "hm", "Cem", "abt 40")]
    rows += [(f"p{number}", "hm", f"D{number}", str(number)) for number in range(20, 40)]
    shown = column_report(pd.DataFrame(rows, columns=["document_id", "Transcript", "name", "age"], dtype=object))
    assert [line.split()[0] for line in shown.splitlines()] == ["name", "age"]
    assert "went" not in shown
    assert "Anna" not in shown
    assert "abt 40 1: no number, as the others are" in shown


# --- stores from Python, and of the version before -------------------------------------------------------------------


def store_of(folder: Path, documents: pd.DataFrame) -> FeatureStore:
    features = [np.ones((1, 2), np.float32)] * len(documents)
    return FeatureStore.write(folder, documents=documents, audio=features, text=features, overwrite=True)


def test_a_store_from_python_holds_one_spelling(tmp_path: Path, caplog: Log) -> None:
    caplog.set_level(logging.WARNING)
    frame = pd.DataFrame(
        {"document_id": ["Zoe\u0308", "b", "c"], "group_id": ["NA", 1.0, "1\u200b"], "y": ["low\u200b", "low", None]}
    )
    store = store_of(tmp_path / "s", frame)
    assert store.document_ids == ["Zoë", "b", "c"]
    assert store.documents["y"].tolist() == ["low", "low", None]
    assert store.documents["group_id"].tolist() == [None, "1", "1"]
    assert "group_id: NA 1: no group" in caplog.text
    with pytest.raises(StoreError, match="fam1"):
        store_of(tmp_path / "t", frame.assign(group_id=["Fam1", "fam1", None]))
    with pytest.raises(StoreError, match="appears twice"):
        store_of(tmp_path / "t", frame.assign(document_id=["b\u200b", "b", "c"]))


def test_families_of_a_store_of_before_are_whole(tmp_path: Path) -> None:
    text = "document_id,group_id\na,f1\nb,f1\u200b\nc,NA\nd,NA\ne,1\nf,1.0\n"
    groups = FeatureStore.open(store_as_before(tmp_path / "s", text)).groups
    assert groups[0] == groups[1]
    assert groups[4] == groups[5]
    assert len(set(groups)) == 4
