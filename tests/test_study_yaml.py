"""YAML written by hand: merge keys are read, surprises refused, and whatever is wrong is one message with its line."""

import os
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert.errors import StudyError
from tune.space import Range, Study
from tune.study_file import load_study, parse_study

BASE = """\
study: s
features: f
tasks: {affect: binary}
trials: 2
search:
  loss.cka: {low: 0.0, high: 1.0}
"""
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(10))}]\n" for i in range(1, 10)
)


def load(folder, text, *overrides):
    path = folder / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_study(path, overrides)


def test_merge_keys_are_read_and_a_mappings_own_keys_win(tmp_path):
    text = """\
study: s
features: f
tasks: {affect: binary}
train: &quick {epochs: 2, patience: 0}
trials: 2
search:
  loss.cka: &unit {low: 0.0, high: 1.0}
  loss.mi: {<<: *unit, high: 0.5}
  loss.moe: {high: 0.7, <<: [{low: 0.1, log: true}, *unit]}
"""
    study = load(tmp_path, text)
    assert study.search["loss.mi"] == Range(low=0.0, high=0.5)
    assert study.search["loss.moe"] == Range(low=0.1, high=0.7, log=True)
    assert study.train.epochs == 2


def test_a_section_without_content_is_the_same_as_none(tmp_path):
    empty = load(tmp_path, BASE + "train:\nmodel:\nresources:\nhours:\nloss:\n  tasks:\n")
    assert (empty.train, empty.model, empty.loss) == (
        load(tmp_path, BASE).train,
        Study.model_fields["model"].default,
        empty.loss,
    )
    assert load(tmp_path, BASE + "train:\n", "train.epochs=3").train.epochs == 3
    with pytest.raises(StudyError, match="unknown key 'trails'"):
        load(tmp_path, BASE + "trails:\n")


@pytest.mark.parametrize(
    ("key", "read"),
    [("no", "no"), ("1", "1"), ("2024-01-05", "2024-01-05"), ("012", "012"), ("~", "~")],
)
def test_keys_are_what_is_written(tmp_path, key, read):
    text = BASE.replace("affect", key)
    if key == "~":
        with pytest.raises(StudyError, match="'~' can't name a task"):
            load(tmp_path, text)
    else:
        assert list(load(tmp_path, text).tasks) == [read]


def test_dates_are_texts_and_a_byte_order_mark_is_none(tmp_path):
    assert load(tmp_path, "\ufeff" + BASE.replace("study: s", "study: 2024-13-45")).study == "2024-13-45"


WRONG = [
    ("storage: {{FEATURES}}", "line 7: a key must be a word; is {{...}} a template"),
    ("storage: {{X}}/studies", "line 7: not valid YAML"),
    ("seed: " + "9" * 5000, "line 7: a number of 5000 characters"),
    ("train: {learning_rate: 0." + "9" * 5000 + "}", "line 7: a number of 5002 characters"),
    ("train: " + "[" * 200_000, "line 7: more than 32 lists and mappings"),
    ("train: " + "{a: " * 50_000, "line 7: more than 32 lists and mappings"),
    ("1: x", "unknown key '1'"),
    ("true: x", "unknown key 'true'"),
    ("~: x", "unknown key '~'"),
    ("? [a, b]\n: x", "line 7: a key must be a word"),
    (LAUGHS, "more than 20,000 values, aliases counted"),
    ("train: &a {x: *a}", "line 7: *a stands within what it stands for"),
    ("seed: 012", "line 7: 012: in YAML a leading 0 makes an octal number"),
    ("hours: 1:30", "line 7: 1:30: in YAML colons make a number of base 60"),
    ("storage: no", "not False; YAML reads no, yes, on, off and numbers as such: put quotes around a word"),
    ("seed: 1\nseed: 2", "line 8: key 'seed' stands twice"),
    ("train: {<<: {epochs: 3}, <<: {patience: 2}}", "line 7: key '<<' stands twice"),
    ("train: {<<: 3}", "line 7: not valid YAML: expected a mapping or list of mappings for merging"),
    ("train:\n\tepochs: 3", "line 8: not valid YAML"),
    ("train: !!python/object/apply:os.system [exit]", "line 7: the tag '!!python/object/apply:os.system'"),
    ("train: !!set {a}", "line 7: the tag '!!set'"),
    ("seed: !!int x", "line 7: 'x' is no int"),
    ("seed: !!bool ''", "line 7: '' is no bool"),
    ("seed: !!map [1]", "line 7: a mapping"),
    ("---\nstudy: t", "line 7: a second document begins"),
    ("storage: \x07", r"line 7: a character that no text has, '\x07'"),
    ("\n".join(f"k{number}: 1" for number in range(3000)), "and 2990 faults more"),
    ("objective: " + "k" * 90_000, "unknown objective 'kkk"),
    ("k" * 900 + ": 1", "unknown key 'kkk"),
    ("search2: abc", "did you mean 'search'"),
    ("# " + "x" * 1_000_000, "more than 1,000,000 bytes"),
]


@pytest.mark.parametrize(("line", "expected"), WRONG, ids=[case[1][:40] for case in WRONG])
def test_what_is_wrong_is_said_in_one_short_message(tmp_path, line, expected):
    started = time.monotonic()
    with pytest.raises(StudyError) as error:
        load(tmp_path, BASE + line + "\n")
    message = str(error.value)
    assert expected in message
    assert "study.yaml" in message
    assert len(message) - len(str(tmp_path)) < 2500
    assert "\n" not in message
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BASE.encode("utf-16"), "save it as UTF-8"),
        (BASE.encode() + "storage: é".encode("latin-1"), "save it as UTF-8"),
        (bytes(range(256)), "save it as UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, expected):
    with pytest.raises(StudyError, match=expected):
        load(tmp_path, content)


def test_folders_and_pipes_are_refused_and_not_waited_for(tmp_path):
    with pytest.raises(StudyError, match="is a folder"):
        load_study(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StudyError, match="no regular file"):
        load_study(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs.x=1", "train.epochs: Input should be a valid integer"),
        ("tasks.affect.kind=binary", "tasks.affect has no keys of its own"),
        ("features.a=b", "features has no keys of its own"),
        ("a.b.c=1", "unknown key 'a'"),
        ("a=", "unknown key 'a'"),
        ("=x", "must be key=value"),
        ("train..epochs=1", "must be key=value"),
        ("search.=1", "must be key=value"),
        ("trials={{X}}", "a key must be a word"),
        ("train.epochs=" + "9" * 5000, "a number of 5000 characters"),
        ("trials=" + "[" * 10_000, "more than 32 lists"),
        ("search.x={low: 0, high: 1}", "search.x: no such parameter"),
    ],
)
def test_a_wrong_override_is_said_in_one_short_message(tmp_path, override, expected):
    with pytest.raises(StudyError) as error:
        load(tmp_path, BASE, override)
    assert expected in str(error.value)
    assert len(str(error.value)) - len(str(tmp_path)) < 1000


def test_overrides_reach_every_place_and_none_besides(tmp_path):
    text = BASE + "model: &m {width: 8}\nloss: {tasks: {affect: 2}}\n"
    study = load(tmp_path, text, "search.loss.mi={low: 0, high: 2}", "loss.tasks.affect=3", "hours=", "train=")
    assert study.search["loss.mi"] == Range(low=0, high=2)
    assert study.loss.tasks == {"affect": 3}
    assert study.hours is None
    shared = "study: s\nfeatures: &f {a: x, b: y}\ntasks: {affect: binary}\ntrials: 1\n"
    dotted = load(tmp_path, shared, "features.a.v2=z", "tasks.my.column=binary", "tasks.other={kind: binary}")
    assert dotted.features == {"a": "x", "b": "y", "a.v2": "z"}
    assert list(dotted.tasks) == ["affect", "my.column", "other"]


# ---- any damage ------------------------------------------------------------------------------------------------------

WHOLE = Path(__file__).parent.parent / "demo" / "study.yaml"
PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b"\n",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!",
    b"|",
    b"'",
    b'"',
    b"\t",
    b"\x00",
    b"\xff",
    b"{{X}}",
]
PIECES += [
    b"---\n",
    b"9" * 400,
    b"0x",
    b"1e999",
    b".nan",
    b"~",
    b"no",
    b"012",
    b"2024-13-45",
    b"? ",
    b"%YAML 2.0\n",
    b"# ",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**90), 10**90)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from([0, 1, 2, 0.5, "binary", "f", "none", 10**9]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["low", "high", "choices", "log", "tasks", "kind"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = [
    *Study.model_fields,
    "search.loss.cka",
    "search.model.width",
    "loss.tasks",
    "train.epochs",
    "tasks.affect",
    "folds.n_splits",
]


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_damaged_bytes_give_a_study_or_one_message(changes):
    content = BASE.encode() + WHOLE.read_bytes()[:400]
    for place, cut, new in changes:
        place %= len(content) + 1
        content = content[:place] + new + content[place + cut :]
    with tempfile.TemporaryDirectory() as folder:
        read_or_refused(lambda: load(Path(folder), content))


@settings(max_examples=60, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_values_give_a_study_or_one_message(changes):
    content = yaml.safe_load(BASE)
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name and isinstance(content.get(section, {}), dict):
            content.setdefault(section, {})[name] = value
        else:
            content[section] = value
    read_or_refused(lambda: parse_study(content, source="s"))


def read_or_refused(read):
    started = time.monotonic()
    try:
        assert isinstance(read(), Study)
        message = ""
    except StudyError as error:
        message = str(error)
    assert len(message) < 5000
    assert time.monotonic() - started < 10
