from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.caffe.prototxt import parse, parse_text
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS


@dataclass(frozen=True)
class Inner:
    number: float = 0


@dataclass(frozen=True)
class Outer:
    name: str
    count: int | None = None
    flag: bool = False
    kind: Literal["A", "B"] = "A"
    many: tuple[int, ...] = ()
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()


def read(text: str) -> Outer:
    return parse_text(text, "net").read(Outer, "the net")


def test_every_form_of_value_is_read() -> None:
    text = r"""# a comment
    name: "a\"\x41" 'b' ; count: 0x10, flag: true
    kind: B  many: 1 many: [2, 3]
    inner { number: 1e-4 } inners: < number: -2f > inners: [{ number: .5 }, { }]"""
    assert read(text) == Outer('a"Ab', 16, True, "B", (1, 2, 3), Inner(1e-4), (Inner(-2), Inner(0.5), Inner()))


def test_enumerations_by_number_and_octal_numbers() -> None:
    assert read('name: "a" kind: 1 count: 010') == Outer("a", 8, kind="B")
    assert read('name: "a" kind: 0 many: [-017, 0x1f]') == Outer("a", kind="A", many=(-15, 31))


@pytest.mark.parametrize("comment", ["# \u5e38\u89c4".encode("gbk"), b"# h\xf6he", b"\xef\xbb\xbf# mark"])
def test_comments_may_be_in_any_encoding(tmp_path: Path, comment: bytes) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(comment + b'\nname: "a"')
    assert parse(path).read(Outer, "the net") == Outer("a")
    path.write_bytes(b'\nname: "h\xf6he"')
    with pytest.raises(BadFile, match=r"net\.prototxt:2: not text in UTF-8"):
        parse(path)


def test_an_empty_list_is_an_absent_field() -> None:
    assert read('name: "a" many: []') == Outer("a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "a"\nwrong: 1', r"net:2: the net has a field 'wrong' that is not supported: .*one of: name, count"),
        ("count: 1", "has no name"),
        ('name: "a"\nname: "b"', "net:2: the net gives name 2 times"),
        ("name: a", "write it in quotes"),
        ('name: "a" count: 1.5', "count of the net is 1.5: write a whole number"),
        ('name: "a" count: 99999999999', "up to 2147483647"),
        ('name: "a" flag: maybe', "true or false"),
        ('name: "a" kind: C', "one of A, B"),
        ('name: "a" inner { number: nan }', "number of inner of the net is nan: write a finite number"),
        ('name: "a" inner: 3', "write a message"),
        ('name: "a" count { }', "count of the net is a message"),
        ('name: "a', "unexpected"),
        ('name: "a" }', "in the place of a field name"),
        ('name: "a" inner {', "ends where } is expected"),
        ("name", "ends where a value is expected"),
        ("name 3", "where ':' or '{' is expected"),
        ("name: :", "in the place of a value"),
        (r'name: "\xZZ"', "bad escape"),
        (r'name: "\\\é"', "bad escape"),
        ("inner {" * 100, "nested over"),
    ],
)
def test_errors_say_where_and_what(text: str, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        read(text)


@given(st.text(alphabet="abc:{}[]<>\"'\\ \n0129.-#,;é", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read(text)
    except BadFile as error:
        assert str(error).startswith("net:")  # noqa: PT017


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadFile, match="not text"):
        parse(path)
    with pytest.raises(BadFile, match="No such file"):
        parse(tmp_path / "absent.prototxt")
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BadFile, match="larger than"):
        parse(path)


def test_a_file_of_too_much_is_refused_before_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMITS, "layers", 3)
    monkeypatch.setattr(LIMITS, "nodes", 50)
    assert len(parse_text("layer { dim: 1 }" * 3, "net").messages("layer")) == 3
    with pytest.raises(BadFile, match=r"more than 3 layers: give a prototxt with 1 to 3 layer"):
        parse_text("layers { dim: 1 }" * 4 + "name ?", "net")  # what comes after is not even looked at
    assert len(parse_text("dim: 1 " * 49, "net").fields["dim"]) == 49
    for text in ("dim: 1 " * 51, f"dim: [{'1,' * 51}]", "a {} " * 51, "a { dim: 1 }" * 26):
        with pytest.raises(BadFile, match="has more than 50 fields: raise FULLYCONV_MAX_NODES"):
            parse_text(text + "name ?", "net")
