from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.documents import format_yaml, parse_yaml, read_yaml
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.memory import PeakMemory

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.recursive(LEAVES, st.lists)))
def test_what_is_written_is_read_back(document: dict) -> None:
    assert parse_yaml(format_yaml(document)) == document


@given(st.text())
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    said = ""
    try:
        parse_yaml(text)
        parse_yaml(text, words=True)
    except ValueError as error:
        said = str(error).strip()
    assert "\n" not in said


@pytest.mark.parametrize(
    "word", ["1", "-7", "1e-3", "1.5", ".5", "true", "false", "null", "~", "-.inf", "[1, 2]", "text"]
)
def test_usual_values_are_those_of_any_yaml_reader(word: str) -> None:
    expected = 0.001 if word == "1e-3" else yaml.safe_load(word)  # PyYAML takes that for a word
    assert parse_yaml(word) == expected
    assert type(parse_yaml(word)) is type(expected)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: 1\na: 2", "line 2: 'a' is said twice"),
        ("{[1]: 2}", "line 1: a key is a word"),
        ("a: 1\n1.5: 2", "line 2: a key is a word, not '1.5'"),
        ("a: &x [*x]", r"\*x stands for nothing, or holds itself"),
        ("a: *x", r"\*x stands for nothing"),
        ("a: !!binary aGk=", "a tag"),
        ("a: !!python/object/apply:os.abort []", "a tag"),
        ("a: [1, 2", "line 2"),
        ("a: 1\n--- \nb: 2", "another document"),
        ("9" * 5000, "digits"),
        ("\0", "control characters"),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_yaml(text)


def bombs() -> dict[str, str]:
    """Return documents of less than 3 kB that unfold to gigabytes or call themselves to the stack's end."""
    letters = "abcdefgh"
    merged = [f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 50)}]}}" for before, name in pairwise("abcdef")]
    lists = [f"{name}: &{name} [{', '.join(['*' + before] * 10)}]" for before, name in pairwise(letters)]
    return {
        "merges": "\n".join(["a: &a {k: 1}", *merged]),
        "lists": "\n".join(["a: &a [x, x, x, x, x, x, x, x, x, x]", *lists]),
        "deep": "a: " + "[" * 2000,
        "deep blocks": "- " * 1500 + "1",
        "deep mappings": "{a: " * 1500,
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_from_their_events(name: str) -> None:
    start = time.perf_counter()
    text = bombs()[name]
    with PeakMemory() as memory, pytest.raises(ValueError, match="FULLYCONV_MAX_"):
        parse_yaml(text)
    assert not memory.taken > 20e6  # NaN where it cannot be measured
    assert time.perf_counter() - start < 2


def test_ordinary_aliases_are_read() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: [*x, *x]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_files_beyond_the_budget_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("a: 1\n" + "# nothing\n" * 100)
    monkeypatch.setattr(LIMITS, "text_bytes", 100)
    with pytest.raises(BadFile, match="FULLYCONV_MAX_TEXT_BYTES"):
        read_yaml(path, fix="shorten it")
    with pytest.raises(BadFile, match=r"no\.yaml: not usable .*: write one"):
        read_yaml(tmp_path / "no.yaml", fix="write one")


@pytest.mark.parametrize("name", ["merge_bomb_classes.yaml", "bomb_recipe.yaml", "deep.yaml"])
def test_hostile_files(name: str) -> None:
    path = Path(__file__).parents[2] / "shared" / "cases" / "hostile" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with pytest.raises(BadFile, match="FULLYCONV_MAX_"):
        read_yaml(path, fix="")
