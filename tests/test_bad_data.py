"""Wrong input ends in one error of the right class that names the file, the row or the key, and the right form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bad_data
import cohorts
import pytest

from hilbert.cohort import Cohort
from hilbert.encoders import load_encoder
from hilbert.errors import CohortError, EncoderError, StoreError
from hilbert.features import FeatureStore


@pytest.mark.parametrize("case", bad_data.COHORTS, ids=lambda case: case.name)
def test_wrong_cohort(case: bad_data.Case, tmp_path: Path) -> None:
    case.make(tmp_path / "cohort")
    with pytest.raises(CohortError) as caught:
        Cohort.load(tmp_path / "cohort")
    for part in case.expected:
        assert part in str(caught.value)
    assert len(caught.value.faults) <= 2  # the fault, and at most the one that follows from it


@pytest.mark.parametrize("verify", ["size", "sha256"])
@pytest.mark.parametrize("case", bad_data.STORES, ids=lambda case: case.name)
def test_wrong_store(case: bad_data.Case, verify: Any, tmp_path: Path) -> None:
    case.make(tmp_path / "store")
    with pytest.raises(StoreError) as caught:
        FeatureStore.open(tmp_path / "store", verify=verify)
    # Where hashes are asked for, a forged file is already known by its hash: then only its name is sure.
    by_hash = verify == "sha256" and "its contents have changed" in str(caught.value)
    for part in case.expected[:1] if by_hash else case.expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(("name", "modality", "expected"), bad_data.ENCODERS)
def test_wrong_encoder(name: str, modality: Any, expected: Sequence[str]) -> None:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, modality=modality, device="cpu")
    for part in [name, *expected]:
        assert part in str(caught.value)


def test_what_the_wrong_ones_were_made_from_is_right(tmp_path: Path) -> None:
    assert len(Cohort.load(cohorts.write_cohort(tmp_path / "cohort"))) == 3
    bad_data.write_store(tmp_path / "store")
    assert len(FeatureStore.open(tmp_path / "store", verify="sha256")) == 3


def test_all_faults_at_once_in_the_order_of_the_files(tmp_path: Path) -> None:
    segments = cohorts.edit(cohorts.edit(cohorts.SEGMENTS, 2, "a,x,one.wav,zero,0.5,hi"), 6, "c,0,gone.wav,,,")
    cohorts.write_cohort(tmp_path, segments=segments)
    with pytest.raises(CohortError) as caught:
        Cohort.load(tmp_path)
    rows = [fault.split(":")[0] for fault in caught.value.faults]
    assert rows == ["segments.csv row 2", "segments.csv row 2", "segments.csv row 6"]


def test_many_faults_are_all_kept_but_not_all_printed(tmp_path: Path) -> None:
    lines = [f"a,{number},gone{number}.wav,,,x" for number in range(70)]
    cohorts.write_cohort(tmp_path, "document_id\na\n", "document_id,segment,audio,start,end,text\n" + "\n".join(lines))
    with pytest.raises(CohortError, match="and 20 more") as caught:
        Cohort.load(tmp_path)
    assert len(caught.value.faults) == 70
    assert "gone69" in caught.value.faults[-1]
    assert "gone69" not in str(caught.value)
