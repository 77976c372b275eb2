"""Strict YAML: what is read, what is refused, and where the fault lies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.core.config import dump_yaml, load_yaml, scalar
from bottega.core.errors import Unsafe, UserError


def read(text):
    return load_yaml(text, file="r.yaml")[0]


def test_numbers_are_numbers_and_words_are_words():
    text = "lr: 1e-4\nno: no\nclock: 12:30\nhex: 0x1F\noctal: 0o17\nnothing: ~\nyes: Yes\ntruth: True\nquoted: '1e-4'\n"
    assert read(text) == {
        "lr": 1e-4,
        "no": "no",
        "clock": "12:30",
        "hex": 31,
        "octal": 15,
        "nothing": None,
        "yes": "Yes",
        "truth": True,
        "quoted": "1e-4",
    }


def test_every_value_has_its_place_and_every_key_too():
    _, marks = load_yaml("a: 1\nb:\n  - {c: 2}\n", file="r.yaml")
    assert marks.at(("b", 0, "c")) == "r.yaml:3:9"
    assert marks.at_key(("b", 0, "c")) == "r.yaml:3:6"
    assert marks.at(("b", 0, "c", "deeper")) == "r.yaml:3:9"


def test_duplicate_keys_are_refused_all_together():
    with pytest.raises(UserError) as error:
        read("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert str(error.value).splitlines() == [
        "r.yaml:2:1: the key 'a' is given twice (first at r.yaml:1:1)",
        "r.yaml:3:11: the key 'c' is given twice (first at r.yaml:3:5)",
    ]


def test_a_syntax_error_names_line_and_column():
    with pytest.raises(UserError, match=r"r\.yaml:2:5: not valid YAML"):
        read("a: 1\nb: x: y\n")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60 + "]" * 60,
        "".join(f"{' ' * i}a:\n" for i in range(60)),
        "a: !!python/object/apply:os.system [id]",
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{n}: &{n} [{', '.join('*' + p for _ in range(10))}]\n" for p, n in zip("abcde", "bcdef")),
        "a: " + "9" * 5000,
        b"a" * 5_000_000,
    ],
    ids=["deep lists", "deep mappings", "object tag", "alias bomb", "huge number", "huge file"],
)
def test_hostile_yaml_is_refused_as_unsafe(text):
    with pytest.raises(Unsafe):
        read(text)


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "---\na: 1\n---\nb: 2\n", "? [1]\n: 2\n", "<<: {a: 1}", b"\xff\xfe\xfd", "a: !!int x"]
)
def test_what_is_ambiguous_is_refused_with_a_sentence(text):
    with pytest.raises(UserError, match="r.yaml"):
        read(text)


def test_an_alias_is_a_copy_of_its_own():
    data = read("a: &x {b: [1]}\nc: *x\n")
    data["c"]["b"].append(2)
    assert data["a"] == {"b": [1]}


words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12) | st.sampled_from(
    ["1e-4", "no", "true", "null", "0x1f", "12:30", "~", "-1", ".inf", "a: b", "# x", "- y", "<<", "1_000", "é"]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words


@given(
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(words.filter(lambda w: w != "<<"), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_what_is_dumped_is_read_back_the_same(data):
    assert read(dump_yaml(data)) == data


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_our_own_error(text):
    try:
        read(text)
    except UserError:
        pass


def test_scalar_follows_the_core_schema():
    assert [scalar(t) for t in ("1e3", "+.5", "1.", "-0", "0b1", "1e", "nUll", "NULL", ".INF")] == [
        1000.0, 0.5, 1.0, 0, "0b1", "1e", "nUll", None, float("inf"),
    ]  # fmt: skip
