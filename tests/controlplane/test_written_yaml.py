"""What is read line by line is what the reader of all of YAML makes of it; what is not left to that one is little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsdk.controlplane.strict_yaml import Words, read_yaml
from meshsdk.controlplane.written_yaml import read_written
from tests.benchmarks.dump import write_dump

_PARTS = (
    *("a:", "b:", "items:", "a", "b c", "1", "0x1F", "1_000", "12:30", "1e5", "yes", "null", "~", "2026-05-04", "-1"),
    *("'a'", '"a: b"', "'it''s'", r'"\n"', "'a", "{}", "[]", "{a: b}", "|", "|-", ">", "|+", "# b", "#b", "a#b"),
    *("a: b", "a:b", "f:a:", 'k:{"a":1}:', "&a b", "*a", "!!str 1", "? a", "<<:", "...", "---", "-", "é", "\t", "="),
)
_LINE = st.tuples(
    st.integers(0, 4).map(" ".__mul__),
    st.sampled_from(["", "", "", "- ", "- ", "- - ", "-  "]),
    st.lists(st.sampled_from(_PARTS), min_size=1, max_size=3).map(" ".join),
    st.sampled_from(["", "", "", " ", " # c"]),
).map("".join)
# Most of what is only put together at random is no YAML.
_LIKELY = st.sampled_from(
    [
        *(
            "a:",
            "b:",
            "  a:",
            "  b: 1",
            "  b: c",
            "- a: b",
            "  - a",
            "- a",
            "- b:",
            "  - b: c",
            "    a: b",
            "a: |",
            "    x",
        )
    ]
)
_WORDS = st.one_of(st.text("ab:#-'\"{|> \n", max_size=5), st.integers(-9, 99), st.booleans(), st.none())
_DATA = st.recursive(
    _WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b c", "items"]), inner)
)


def assert_read_alike(text: str) -> None:
    written = read_written(text, 7, Words())
    if written is not None:
        assert (repr([written]), 0) == (repr(read_yaml(text, 7)[0]), 0)


@given(st.lists(_LINE | _LIKELY, min_size=1, max_size=7))
@settings(max_examples=1000, deadline=None)
def test_lines_mean_what_they_mean_to_yaml(lines: list[str]) -> None:
    assert_read_alike("\n".join(lines) + "\n")


@given(_DATA, st.data())
@settings(max_examples=300, deadline=None)
def test_what_a_program_writes_means_what_it_means_to_yaml(value: Any, data: st.DataObject) -> None:
    lines = yaml.safe_dump(value, sort_keys=False).split("\n")
    assert_read_alike("\n".join(lines))
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place : place + 1] = data.draw(st.lists(_LINE | _LIKELY, max_size=2))
    assert_read_alike("\n".join([*lines, ""]))


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2\n",
        "a: b # c\n",
        "a: {b: c}\n",
        "a: b\n  c\n",
        'a: "\\n"\n',
        "a: &x b\n",
        "a: >\n  b\n",
        "a: b",
        "a: é\n",
        "1: a\n",
        "a\n",
        "- - a\n",
        "- \n",
        "# nothing\n",
        "  a: b\nc: d\n",
        "a: |\n\n  b\n",
        "---\na: b\n---\nc: d\n",
    ],
)
def test_what_is_not_plainly_written_is_left_to_the_reader_of_all_of_yaml(text: str) -> None:
    assert read_written(text, 1, Words()) is None


def test_a_dump_is_read_by_its_lines(tmp_path: Path) -> None:
    for path in write_dump(tmp_path / "dump", 3, 9).glob("*.yaml"):
        text = path.read_text()
        assert read_written(text, 1, Words()) == read_yaml(text)[0][0]


def test_a_text_below_a_key_is_kept_as_it_stands() -> None:
    text = "kept: |\n  {\n    one\n\n  }\n\ncut: |-\n  two\nlast: x\n"
    written = read_written(text, 1, Words())
    assert written is not None
    assert written.data == {"kept": "{\n  one\n\n}\n", "cut": "two", "last": "x"}
    assert_read_alike(text)
