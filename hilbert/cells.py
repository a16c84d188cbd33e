"""What a cell of a table says: invisible characters, codes for missing values, twins, numbers that may be codes.

Tables come from R, SPSS, SAS, Stata, Excel, pandas and typing hands. Each writes a missing value in its own way, and
each can spell one class, family or person in two ways that look alike. The rules:

    tidied         invisible characters go, unusual spaces become plain ones, letters are composed (Unicode NFC)
    certain        NA, N/A, #N/A, <NA>, NaN, nan, NULL, `.`, -, ?, ... stand for a missing value wherever a label or a
                   group is asked for; a class that the study file declares wins
    doubtful       none, unknown, ... may be a class ("none, mild, severe"): they stay one, and are told
    twins, same    1, 1.0 and +1 are one number, hence one class and one group
    twins, refused Low and low, 01 and 1, a hyphen and a dash: whether they are one only the user knows
"""

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

# Code points that no one sees (Unicode's Default_Ignorable_Code_Point) but the joiners of Persian or Hindi, and
# control characters but tab and line ends.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_EDGES = " \t\n\r\u2028\u2029\u200c\u200d"
_JOINERS = re.compile("[\u200c\u200d]")

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?")
_PLAIN = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d*)?")  # neither leading zeros nor an exponent


def _codes(text: str) -> frozenset[str]:
    """A set of codes, written with two blanks or a line end between them."""
    return frozenset(re.split(r"  +|\n *", text.strip()))


_CERTAIN = _codes(r"""
    NA  na  N/A  n/a  N/a  N.A.  n.a.  #N/A  #N/A N/A  #n/a  #NA  #NV  #N/D  <NA>  <na>  NaN  nan  NAN  -NaN  -nan  +nan
    1.#IND  -1.#IND  1.#QNAN  -1.#QNAN  NULL  null  (null)  (NULL)  \N  NaT  NA_character_  NA_integer_  NA_real_
    sysmis  SYSMIS  (blank)  (empty)  (missing)  missing  Missing  MISSING  missing value  no data
""")
_MARKS = re.compile(r"[?.…\-‐-―−/\\_]+|\.[A-Za-z_]")  # only marks, or a special missing value of SAS or Stata (.a)
_BROKEN = re.compile(
    r"#¡?[A-ZÀ-Þ][A-ZÀ-Þ_/0-9 ]*[!?]"
)  # a spreadsheet's broken formula: #VALUE!, #REF!, #DIV/0!, #WERT!
_DOUBTFUL = _codes("""
    none  nil  unknown  unk  unspecified  undefined  unclear  refused  no answer
    not available  not applicable  not known  not reported  not specified
""")
_NOTHING = _codes("none  nil")  # may stand for zero
_UNSPOKEN = _codes(r"NA  N/A  n/a  #N/A  #N/A N/A  #NA  #NV  #N/D  <NA>  NaN  nan  -nan  NULL  \N  NaT  NA_character_")
_WORDS = _codes("None  none  NONE  null  Null  na  Na  nil")  # may be all that somebody says
_SILENT = re.compile(r"\.|[\-‐-―−]+")


def tidy(text: str) -> str:
    """The text without invisible characters and outer blanks, unusual spaces as plain ones, composed (NFC)."""
    if text.isascii() and text.isprintable():
        return text.strip()
    seen = _BLANKS.sub(" ", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", seen).strip(_EDGES)


def number(text: str) -> float | None:
    """The finite number that a cell holds, with a decimal point; None for anything else (1_000, inf, 1,5, 1e400)."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


# --- codes for missing values ----------------------------------------------------------------------------------------


def matches(text: str, codes: Iterable[str]) -> str | None:
    """Which of the codes that the user named a cell holds: the same text, or the same number."""
    codes, value = list(codes), number(text)
    if text in codes:
        return text
    same = (code for code in codes if value is not None and number(code) == value)
    return next(same, None)


def is_missing(text: str) -> bool:
    """Whether a cell holds nothing but a code that stands for a missing value, whatever the column."""
    if text in _CERTAIN:
        return True
    return not text[:1].isalnum() and bool(_MARKS.fullmatch(text) or _BROKEN.fullmatch(text))


def is_broken(text: str) -> bool:
    """Whether a cell holds what a spreadsheet shows for a broken formula, as #REF!."""
    return bool(_BROKEN.fullmatch(text))


def missing_labels(found: Collection[str], *, numeric: bool = False) -> set[str]:
    """Which of a label column's distinct texts stand for a missing label.

    Args:
        found: the texts, tidied.
        numeric: the column is a regression's: what is no number is no class either.

    Returns:
        The codes. `-` stays a class beside `+`; `None` is Python's where no class begins with a capital; words such as
        `unknown` count beside numbers alone, and `none` never, since it may be a class or zero.
    """
    codes = {text for text in found if is_missing(text)}
    if any("+" in text and not text.strip("+-−/±") for text in found):  # the results of a test: +, -, ++
        codes -= {text for text in codes if not text.strip("-−")}
    rest = [text for text in found if text not in codes]
    others = [text for text in rest if text.casefold() not in _DOUBTFUL]
    if "None" in rest and not any(text[:1].isupper() for text in rest if text != "None"):
        codes.add("None")
    if numeric or (others and all(number(text) is not None for text in others)):
        codes |= {text for text in rest if text.casefold() in _DOUBTFUL - _NOTHING}
    return codes


def doubtful_labels(found: Collection[str]) -> set[str]:
    """Which of the texts that stay classes may stand for a missing label all the same."""
    return {text for text in found if text.casefold() in _DOUBTFUL}


def is_no_group(text: str) -> bool:
    """Whether a cell of `group_id` says that there is no group: nobody calls a family `none` or `unknown`."""
    return is_missing(text) or text.casefold() in _DOUBTFUL


def is_unspoken(text: str) -> bool:
    """Whether a whole transcript cell is a program's code for a missing value, or holds nothing that can be read."""
    return text in _UNSPOKEN or bool(_SILENT.fullmatch(text)) or is_broken(text) or not tidy(text)


def may_be_unspoken(text: str) -> bool:
    """Whether a whole transcript cell is a word that programs write for a missing value, and people say."""
    return text in _WORDS


# --- twins -----------------------------------------------------------------------------------------------------------


ALIKE = "differ in case, blanks, dashes, look-alike letters or leading zeros alone"
"""What may set two names apart that are one, as messages say it."""
_TYPED = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-") | dict.fromkeys("‘’‛′`´", "'") | dict.fromkeys("“”„″«»", '"'))
_LOOK_ALIKE = str.maketrans(
    "АВЕКМНОРСТХІЈЅаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧοαν",  # Cyrillic, then Greek
    "ABEKMHOPCTXIJSaeopcyxijsABEZHIKMNOPTYXoav",
)


def _plain(text: str) -> Decimal | None:
    """The number, where a text is one without leading zeros and exponents; full-width digits count."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    try:
        return Decimal(text) if _PLAIN.fullmatch(text) else None
    except InvalidOperation:
        return None


def _likeness(text: str) -> object:
    """Equal for texts that may be one: the number however written, else the letters in whatever case and width."""
    if not text.isascii():
        text = _JOINERS.sub("", unicodedata.normalize("NFKC", text.translate(_TYPED)))
    value = None if text[:1].isalpha() else number(text)
    return " ".join(text.casefold().split()) if value is None else value


def same_number(found: Iterable[str]) -> dict[str, str]:
    """Spellings of one number, as 1 and 1.0: each spelling but the plainest -> the plainest."""
    spellings: dict[Decimal, list[str]] = defaultdict(list)
    for text in found:
        value = None if text[:1].isalpha() else _plain(text)
        if value is not None:
            spellings[value].append(text)
    plainest = [min(texts, key=lambda text: (not text.isascii(), len(text), text)) for texts in spellings.values()]
    pairs = zip(plainest, spellings.values(), strict=True)
    return {text: chosen for chosen, texts in pairs for text in texts if text != chosen}


def _looks(text: str) -> object:
    """Equal for texts that look the same: letters of other alphabets as the Latin ones that they look like."""
    return text.translate(_LOOK_ALIKE)


def twins(found: Iterable[str]) -> list[list[str]]:
    """Texts that differ as `ALIKE` says and in nothing else: whether they are one only the user knows."""
    texts = list(dict.fromkeys(found))
    ways = [_likeness] if all(map(str.isascii, texts)) else [_likeness, _looks]
    pairs = list[list[str]]()
    for way in ways:
        alike: dict[object, list[str]] = defaultdict(list)
        for text in texts:
            alike[way(text)].append(text)
        pairs += [one for one in alike.values() if len(one) > 1 and one not in pairs]
    return pairs


# --- numbers that may be codes ---------------------------------------------------------------------------------------

_REPEATED = [int(str(digit) * length) for digit in (6, 7, 8, 9) for length in range(2, 8)]
_ENDS = [int("9" * length + str(digit)) for digit in (5, 6, 7, 8) for length in range(1, 6)]
_CUSTOMARY = frozenset(
    [*_REPEATED, *_ENDS, *(-value for value in [*_REPEATED, *_ENDS, *range(1, 10)]), 99.9, 99.99, 999.9, 999.99, -99.9]
)
_SMALL = frozenset({7, 8, 9})  # codes of questionnaires, and ordinary counts


def suspected_codes(values: Sequence[float]) -> dict[float, int]:
    """Numbers that look like codes for a missing value, as -99 and 999 among ages, with how often they stand there.

    A customary code is suspected if it lies outside of the other numbers by more than three times the widest gap among
    them and a fifth of their range; or outside, and more often than any other and three times at least; or is negative
    where the others are zero and more, and reach to its threefold. 7, 8 and 9 must be repeated.
    """
    counts = Counter(values)
    customary = {value for value in counts if value in _CUSTOMARY or (value in _SMALL and counts[value] > 1)}
    rest = sorted(set(counts) - customary)
    if not rest:
        return {}
    gap = max((after - before for before, after in itertools.pairwise(rest)), default=0.0)

    def is_apart(value: float) -> bool:
        away = rest[0] - value if value < rest[0] else value - rest[-1]
        below = value < 0 <= rest[0] and rest[-1] >= 3 * -value
        often = abs(value) >= 10 and counts[value] >= 3 and counts[value] > max(counts[other] for other in rest)
        return away > max(3 * gap, (rest[-1] - rest[0]) / 5, 1.0) or (often and away > 1) or below

    return {value: counts[value] for value in sorted(customary) if is_apart(value)}


def told_counts(counts: Mapping[str, int], most: int = 8) -> str:
    """`NA 4, . 1`: texts with how often they stand there, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    more = [f"and {len(ordered) - most} more"] if len(ordered) > most else []
    return ", ".join([*(f"{_brief(text)} {count}" for text, count in ordered[:most]), *more])


def _brief(text: str) -> str:
    escaped = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return escaped if len(escaped) <= 40 else f"{escaped[:36]} ..."
