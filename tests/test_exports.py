"""Files called .csv that are something else: the refusal names the program that wrote them, and how to save them."""

import io
import zipfile
from pathlib import Path

import pytest
from cohorts import DOCUMENTS, write_cohort

from hilbert.cohort import Cohort
from hilbert.errors import CohortError
from hilbert.tables import read_table

QUALTRICS = (
    "document_id,affect,age\n"
    '"Response ID","How do you feel?\nChoose one","Your age"\n'
    '"{""ImportId"":""_recordId""}","{""ImportId"":""QID1""}","{""ImportId"":""QID2_TEXT"",""timeZone"":""Z""}"\n'
    "a,low,34\nb,low,\nc,high,41\n"
)


def workbook() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return content.getvalue()


def utf16(text: str, *, mark: bool) -> bytes:
    return text.replace(",", "\t").encode("utf-16") if mark else text.encode("utf-16-le")


EXPORTS = {
    "Qualtrics": (QUALTRICS.encode(), ["row 2 and row 4: more header rows of a Qualtrics export", "delete them"]),
    "Qualtrics, ids alone": (
        DOCUMENTS.replace("a,g,low", "\"{'ImportId': 'x'}\",,\na,g,low").encode(),
        ["row 2: more header rows of a Qualtrics export"],
    ),
    "SurveyMonkey": (
        b"document_id,affect\n,Open-Ended Response\na,low\n",
        ["row 2: a second header row of a SurveyMonkey export"],
    ),
    "sep=,": (b"sep=,\r\n" + DOCUMENTS.encode(), ["row 1: 'sep=,' is a line for Excel alone", "delete it"]),
    "sep=;": (b'"sep=;"\ndocument_id;y\na;1\n', ["row 1", "sep=;", "delete it", "',' stands between"]),
    "semicolons and decimal commas": (
        b'document_id;affect;"score, all"\r\na;low;3,5\r\nb;high;4\r\n',
        ["row 1", "not separated by commas but by semicolons", "decimal commas", "'.' in numbers", "write.csv"],
    ),
    "semicolons": (b"document_id;affect\na;low\n", ["by semicolons", "',' between the cells"]),
    "tabs": (b"document_id\taffect\na\tlow\n", ["by tabs"]),
    "Unicode Text": (utf16(DOCUMENTS, mark=True), ["UTF-16", "Unicode Text", "CSV UTF-8"]),
    "UTF-16 without a mark": (utf16(DOCUMENTS, mark=False), ["UTF-16", "CSV UTF-8"]),
    "Windows-1252": (DOCUMENTS.replace("high", "h\u00f6ch").encode("cp1252"), ["row 4: not UTF-8 (byte F6)", "1252"]),
    "NUL bytes": (DOCUMENTS.replace("b,g", "b\0,g").encode(), ["row 3: holds NUL bytes", "damaged"]),
    "workbook": (workbook(), ["no CSV but a zip archive", ".xlsx", "CSV UTF-8"]),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), [".xls"]),
    "web page": (b"\xef\xbb\xbf\n<HTML><table><tr><td>a</td></tr></table>", ["web page", "without a login"]),
    "JSON": (b'[{"document_id": "a"}]', ["JSON"]),
    "SPSS": (b"$FL2@(#) SPSS DATA FILE" + bytes(50), ["SPSS"]),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["git lfs pull"]),
    "title above the header": (b"Cohort of 2024,,\n" + DOCUMENTS.encode(), ["row 2: the header stands here"]),
}


@pytest.mark.parametrize(("data", "says"), EXPORTS.values(), ids=EXPORTS)
def test_the_cause_and_the_fix_are_told_in_one_line(tmp_path: Path, data: bytes, says: list[str]) -> None:
    folder = write_cohort(tmp_path)
    (folder / "documents.csv").write_bytes(data)
    with pytest.raises(CohortError) as caught:
        Cohort.load(folder)
    faults = caught.value.faults
    assert len(faults) == 1
    for part in ["documents.csv row ", *says]:
        assert part in faults[0]


@pytest.mark.parametrize(
    "text",
    [
        'document_id,"a;b;c;d;e"\nx,1\n',
        'document_id,said\nx,"{""ImportId"" is not at the start"\n'.replace('"{', '"so {'),
        'document_id,note\nx,"sep=;"\n',
        "document_id,a|b|c\nx,1\n",
        "document_id,page\nx,<html>\n",
    ],
)
def test_cells_that_look_like_exports_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "t.csv").faults == ()
