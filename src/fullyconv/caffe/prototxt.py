"""Protobuf's text form, read with the line of everything, so that errors can say where.

``parse`` gives a tree of messages; ``Message.read`` checks one against a frozen dataclass, which is
its schema: field names, types and defaults. A field that the dataclass does not have is an error.
The words of an enumeration are a ``Literal``, in the order of their numbers from 0 on, or from ``n`` on
where it is ``Annotated`` with ``n``: a file may write the number.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

DEEPEST = 32  # Caffe's own messages nest four deep
LAYERS = ("layer", "layers")  # what a net's layers stand in, in the form of today and in the old ones
LARGEST_INT = 2**31 - 1

T = TypeVar("T")

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\f\v,;]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>[A-Za-z0-9_.+-]+)
      | (?P<mark>[{}<>:\[\]])""",
    re.VERBOSE,
)
_BAD_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*\\[^abfnrtvx0-7\\'"]""")
_OCTAL = re.compile(r"-?0[0-7]+")
_CLOSING = {"{": "}", "<": ">"}
_BOOLS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}


class Token(NamedTuple):
    """A string, a word (number, name) or a mark, and its line."""

    kind: str
    text: str
    line: int


@dataclass
class Message:
    """A message as written: every field's values in order."""

    path: str
    line: int
    fields: dict[str, list[Token | Message]] = field(default_factory=dict)

    def fail(self, what: str, fix: str, line: int | None = None) -> BadFile:
        """Make the error for something in this message."""
        return BadFile(f"{self.path}:{line or self.line}", what, fix)

    def messages(self, name: str) -> list[Message]:
        """Return the sub-messages called ``name``; raises ``BadFile`` if a plain value goes by that name."""
        found = self.fields.get(name, [])
        for entry in found:
            if not isinstance(entry, Message):
                raise self.fail(f"{name}: {entry.text} is a value, not a message", f"write {name} {{ … }}", entry.line)
        return [entry for entry in found if isinstance(entry, Message)]

    def read(self, schema: type[T], what: str) -> T:
        """Check the message against a dataclass and give its values.

        ``what`` names the message in errors. Raises ``BadFile`` for a field that ``schema`` lacks, a
        field given twice that may be given once, and a value of the wrong type.
        """
        hints = _hints(cast("Any", schema))
        values: dict[str, Any] = {}
        for name, entries in self.fields.items():
            if name not in hints:
                allowed = ", ".join(hints) or "none"
                raise self.fail(
                    f"{what} has a field {name!r} that is not supported",
                    f"remove it or write one of: {allowed}",
                    entries[0].line,
                )
            values[name] = self._field(name, hints[name], entries, what)
        required = [
            entry.name
            for entry in fields(schema)  # type: ignore[arg-type]
            if entry.default is MISSING and entry.default_factory is MISSING
        ]
        missing = [name for name in required if name not in values]
        if missing:
            raise self.fail(f"{what} has no {missing[0]}", f"add {missing[0]}: …")
        return schema(**values)

    def _field(self, name: str, hint: Any, entries: list[Token | Message], what: str) -> Any:
        if get_origin(hint) is tuple:
            kind = get_args(hint)[0]
            return tuple(self._value(name, kind, entry, what) for entry in entries)
        if len(entries) > 1:
            raise self.fail(f"{what} gives {name} {len(entries)} times", "give it once", entries[1].line)
        return self._value(name, hint, entries[0], what)

    def _value(self, name: str, hint: Any, entry: Token | Message, what: str) -> Any:
        if isinstance(entry, Message):
            inner = [kind for kind in get_args(hint) or (hint,) if hasattr(kind, "__dataclass_fields__")]
            if not inner:
                raise self.fail(f"{name} of {what} is a message", f"write {name}: value", entry.line)
            return entry.read(inner[0], f"{name} of {what}")
        try:
            return _convert(entry, hint)
        except ValueError as error:
            raise self.fail(f"{name} of {what} is {entry.text[:80]}", f"write {error}", entry.line) from None


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=True)


def _convert(token: Token, hint: Any) -> Any:
    """Turn a token into a value; the message of the ``ValueError`` says what is allowed."""
    kinds = [hint] if get_origin(hint) in (Annotated, Literal) else get_args(hint) or [hint]
    kind = next(kind for kind in kinds if kind is not type(None))
    first = 0
    if get_origin(kind) is Annotated:
        kind, first = get_args(kind)
    if get_origin(kind) is Literal:
        return _word(token, get_args(kind), first)
    return _SCALARS.get(kind, _no_scalar)(token)


def _word(token: Token, words: tuple[str, ...], first: int) -> str:
    """Read a word of an enumeration, or its number."""
    if token.kind == "word" and token.text.isdecimal() and 0 <= _integer(token) - first < len(words):
        return words[_integer(token) - first]
    if token.text not in words:
        raise ValueError(f"one of {', '.join(words)}")
    return token.text


def _integer(token: Token) -> int:
    try:
        value = int(token.text, 8 if _OCTAL.fullmatch(token.text) else 0)
    except ValueError:
        raise ValueError("a whole number") from None
    if abs(value) > LARGEST_INT:
        raise ValueError(f"a whole number up to {LARGEST_INT}")
    return value


def _real(token: Token) -> float:
    try:
        value = float(token.text.removesuffix("f") if token.text[:1] not in "iI" else token.text)
    except ValueError:
        raise ValueError("a number") from None
    if value != value or abs(value) == float("inf"):
        raise ValueError("a finite number")
    return value


def _boolean(token: Token) -> bool:
    if token.text not in _BOOLS:
        raise ValueError("true or false")
    return _BOOLS[token.text]


def _string(token: Token) -> str:
    if token.kind != "string":
        raise ValueError(f'it in quotes: "{token.text}"')
    return token.text


def _no_scalar(token: Token) -> Any:
    raise ValueError("a message: { … }")


_SCALARS: dict[Any, Any] = {int: _integer, float: _real, bool: _boolean, str: _string}


def _tokens(text: str, path: str) -> Iterator[Token]:
    line, at = 1, 0
    for match in _TOKEN.finditer(text):
        if match.start() != at:  # something between two tokens is none
            break
        kind, found, at = match.lastgroup or "", match.group(), match.end()
        if kind == "newline":
            line += 1
        elif kind == "string":
            if not found.isascii() and _is_coded(found):
                raise _unexpected(found, f"{path}:{line}")
            yield Token(kind, _unescape(found[1:-1], f"{path}:{line}"), line)
        elif kind != "blank":
            yield Token(kind, found, line)
    if at < len(text):
        raise _unexpected(text[at : at + 20].splitlines()[0], f"{path}:{line}")


def _is_coded(text: str) -> bool:
    """Return whether a text has bytes that are no UTF-8, which Python carries as surrogates."""
    return any(0xDC80 <= ord(letter) <= 0xDCFF for letter in text)


def _unexpected(text: str, where: str) -> BadFile:
    if text.startswith("${"):
        name = text[: text.find("}") + 1] or text
        return BadFile(where, f"a template's {name}", "write its value there, as the script beside it does")
    if _is_coded(text):
        return BadFile(where, "not text in UTF-8", "give the .prototxt here, the .caffemodel second, saved as UTF-8")
    return BadFile(where, f"unexpected {text!r}", "correct the line")


def _unescape(raw: str, where: str) -> str:
    if "\\" not in raw:
        return raw
    try:
        if _BAD_ESCAPE.search(raw):
            raise ValueError
        return codecs.escape_decode(raw.encode())[0].decode()
    except ValueError:
        raise BadFile(where, f"a string with a bad escape: {raw[:40]!r}", "correct the string") from None


class _Parser:
    """Recursive descent over the tokens; ``DEEPEST`` bounds the recursion, ``LIMITS`` the fields and the layers."""

    def __init__(self, text: str, path: str) -> None:
        self.path, self.tokens = path, _tokens(text, path)
        self.line, self.count = 1, 0
        self.ahead = next(self.tokens, None)

    def take(self, what: str) -> Token:
        token = self.ahead
        if token is None:
            raise BadFile(f"{self.path}:{self.line}", f"ends where {what} is expected", "restore the rest of the file")
        self.line = token.line
        self.ahead = next(self.tokens, None)
        return token

    def body(self, closing: str, line: int, depth: int) -> Message:
        """Read fields up to ``closing`` (or the end of the file)."""
        if depth > DEEPEST:
            raise BadFile(f"{self.path}:{line}", f"messages nested over {DEEPEST} deep", "this is no Caffe network")
        self.one_more()
        message = Message(self.path, line)
        while not (self.ahead is None and not closing):
            token = self.take(closing or "a field")
            if token.text == closing and token.kind == "mark":
                break
            if token.kind != "word" or not (token.text[0].isalpha() or token.text[0] == "_"):
                raise BadFile(f"{self.path}:{token.line}", f"{token.text!r} in the place of a field name", "correct it")
            values = self.values(depth)
            if values:  # an empty list is an absent field
                message.fields.setdefault(token.text, []).extend(values)
            if depth == 0 and token.text in LAYERS and len(message.fields.get(token.text, ())) > LIMITS.layers:
                raise too_many_layers(self.path, f"more than {LIMITS.layers}")
        return message

    def one_more(self) -> None:
        """Count a value or a message; raises ``BadFile`` where a file has more of them than are read."""
        self.count += 1
        if self.count > LIMITS.nodes:
            raise BadFile(self.path, f"has more than {LIMITS.nodes} fields", LIMITS.remedy("nodes"))

    def values(self, depth: int) -> list[Token | Message]:
        """Read what follows a field's name."""
        colon = self.ahead is not None and self.ahead.text == ":" and self.ahead.kind == "mark"
        if colon:
            self.take(":")
        token = self.take("a value")
        if token.kind == "mark" and token.text in _CLOSING:
            return [self.body(_CLOSING[token.text], token.line, depth + 1)]
        if not colon:
            raise BadFile(f"{self.path}:{token.line}", f"{token.text!r} where ':' or '{{' is expected", "correct it")
        if token.kind == "mark" and token.text == "[":
            return self.list(depth)
        return [self.scalar(token)]

    def list(self, depth: int) -> list[Token | Message]:
        found: list[Token | Message] = []
        while True:
            token = self.take("]")
            if token.kind == "mark" and token.text == "]":
                return found
            if token.kind == "mark" and token.text in _CLOSING:
                found.append(self.body(_CLOSING[token.text], token.line, depth + 1))
            else:
                found.append(self.scalar(token))

    def scalar(self, token: Token) -> Token:
        if token.kind == "mark":
            raise BadFile(f"{self.path}:{token.line}", f"{token.text!r} in the place of a value", "correct it")
        self.one_more()
        text = token.text
        while token.kind == "string" and self.ahead is not None and self.ahead.kind == "string":
            text += self.take("a string").text  # adjacent strings are one, as in C
        return Token(token.kind, text, token.line)


def too_many_layers(path: str, count: int | str) -> BadFile:
    """Make the error for a net of no layer, or of more than ``LIMITS`` allows."""
    return BadFile(
        path, f"describes {count} layers", f"give a prototxt with 1 to {LIMITS.layers} layer {{ … }} entries"
    )


def parse(path: Path | str) -> Message:
    """Read a file in protobuf's text form; raises ``BadFile`` with the line at fault."""
    path = Path(path)
    try:
        if path.stat().st_size > LIMITS.text_bytes:
            raise BadFile(path, f"larger than {LIMITS.text_bytes} bytes", "a network's description is a few kilobytes")
        content = path.read_bytes()
    except OSError as error:
        raise BadFile(path, f"not readable ({error.strerror})", "check the path") from None
    if b"\0" in content:
        raise BadFile(path, "not text", "give the .prototxt here, the .caffemodel second")
    # Comments may be in any encoding; bytes elsewhere are refused where they stand.
    return parse_text(content.decode("utf-8-sig", "surrogateescape"), str(path))


def parse_text(text: str, path: str) -> Message:
    """Read protobuf's text form; ``path`` is what errors call it."""
    return _Parser(text, path).body("", 1, 0)
