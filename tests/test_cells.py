"""What a cell says: invisible characters, codes for missing values, twins, numbers that may be codes."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert.cells import (
    doubtful_labels,
    is_no_group,
    is_unspoken,
    missing_labels,
    number,
    same_number,
    suspected_codes,
    tidy,
    twins,
)


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("low", "low"),
        (" low\u200b", "low"),
        ("\ufefflow", "low"),
        ("l\u00adow", "low"),
        ("very\u00a0low\u2009", "very low"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("\u2067low\u2069", "low"),
        ("low\ufe0f\x00", "low"),
        ("نمی\u200cدانم", "نمی\u200cدانم"),  # Persian writes its words with joiners
        ("\u200clow\u200d", "low"),
        ("\u200b", ""),
        ("a\nb", "a\nb"),
    ],
)
def test_invisible_characters_go_and_letters_are_composed(text: str, tidied: str) -> None:
    assert tidy(text) == tidied


@given(st.text(max_size=8))
def test_tidying_twice_changes_nothing(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text) == unicodedata.normalize("NFC", tidy(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3.5", 3.5), ("-2e3", -2000.0), ("+.5", 0.5), ("٣", 3.0), ("7.", 7.0)]
    + [(text, None) for text in ("1_000", "1,5", "inf", "nan", "1e400", "0x1", "", "1 000", "²")],
)
def test_numbers_have_a_decimal_point_and_are_finite(text: str, value: float | None) -> None:
    assert number(text) == value


CODES = ["NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", ".", "-", "?", "#VALUE!", "#DIV/0!", "#REF!", "n/a", "<NA>"]


@pytest.mark.parametrize("code", [*CODES, "missing", ".a", "#WERT!", "--", "NA_character_", "\\N"])
def test_codes_of_programs_are_missing_labels_and_missing_groups(code: str) -> None:
    assert missing_labels(["low", "high", code]) == {code}
    assert missing_labels(["1", "2.5", code], numeric=True) == {code}
    assert is_no_group(code)


def test_words_that_may_be_classes_stay_and_are_told() -> None:
    assert missing_labels(["none", "mild", "severe"]) == set()
    assert missing_labels(["None", "Mild", "Severe"]) == set()
    assert missing_labels(["unknown", "mild", "severe"]) == set()
    assert doubtful_labels(["None", "unknown", "mild"]) == {"None", "unknown"}
    assert missing_labels(["+", "-"]) == set()  # a test's results


def test_words_beside_numbers_and_pythons_none_are_missing() -> None:
    assert missing_labels(["1", "2", "unknown", "none"]) == {"unknown"}  # none may be zero
    assert missing_labels(["yes", "no", "None"]) == {"None"}
    assert missing_labels(["1.5", "2", "unknown"], numeric=True) == {"unknown"}


def test_names_of_people_are_groups() -> None:
    assert not any(is_no_group(name) for name in ("Na", "Nan", "Null", "fam1", "0", "-1", "A-B"))
    assert all(is_no_group(name) for name in ("none", "Unknown", "-", "NA"))


def test_spoken_words_are_not_taken_for_codes() -> None:
    assert all(is_unspoken(text) for text in ("NA", "#N/A", ".", "nan", "NaN", "-", "\u200b", "#REF!"))
    assert not any(
        is_unspoken(text) for text in ("none", "na", "None", "null", "Nan", "?", "...", "NA and so on", "no")
    )


def test_spellings_of_a_number_are_one_and_codes_with_zeros_are_not() -> None:
    found = ["1", "1.0", "+1", "1.00", "01", "1e0", "１", "2.50", "2.5", "low"]
    assert same_number(found) == {"1.0": "1", "+1": "1", "1.00": "1", "１": "1", "2.50": "2.5"}
    assert twins(["1", "01", "2"]) == [["1", "01"]]
    assert twins(["Low", "low", "LOW ", "high"]) == [["Low", "low", "LOW "]]
    assert twins(["straße", "STRASSE", "Ｌow", "low"]) == [["straße", "STRASSE"], ["Ｌow", "low"]]
    assert twins(["a", "b", "10", "1"]) == []
    assert twins(["нет", "да", "Нет"]) == [["нет", "Нет"]]


AGES = [20.0, 34, 41, 28, 39, 25, 31, 22, 43, 37]


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ([*AGES, -99], {-99: 1}),
        ([*AGES, -99, 999, 999], {-99: 1, 999: 2}),
        ([*AGES, -9, -1, 99], {-9: 1, -1: 1, 99: 1}),
        ([*AGES, 77, 88, 9999], {77: 1, 88: 1, 9999: 1}),
        ([*AGES, 60, 75, 80, 99, 99, 99], {99: 3}),  # again and again, and outside
        ([1, 2, 3, 4, 5, 9, 9], {9: 2}),
        ([34, -99, 999, 35], {-99: 1, 999: 1}),
        ([*AGES, 50], {}),
        ([*range(101)], {}),  # a scale to 100 holds 77, 88 and 99
        ([-1, 0, 1, 1, 0], {}),
        ([-2, -1, 0, 1, 2], {}),
        ([-1.2, -1, 0.3, 1.1], {}),
        ([*range(10)], {}),
        ([-99, -99], {}),
    ],
)
def test_numbers_that_look_like_codes(values: list[float], codes: dict[float, int]) -> None:
    assert suspected_codes([float(value) for value in values]) == codes
