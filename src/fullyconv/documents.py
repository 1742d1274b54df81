"""YAML, as the package reads and writes it: one reader, with bounds, for everything people write by hand.

YAML 1.1 surprises (``no`` is false, ``1e-3`` is a word, ``010`` is eight, ``2020-01-01`` is a date, a later key
silently replaces an earlier one) and lets a few hundred bytes unfold to gigabytes. Here plain words are read by
the short table of YAML 1.2's core schema, keys are text and unique, and a document is measured, its aliases
counted as often as they are used, before any of it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

TAG = "tag:yaml.org,2002:"
PLAIN = {  # what a word without quotes may be, and the letters that such a word may begin with
    "null": (r"null|~|", ["n", "~", ""]),
    "bool": (r"true|false", ["t", "f"]),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
}
TAGS = {None, "!", *(TAG + kind for kind in (*PLAIN, "str", "seq", "map"))}

# libyaml's parser is ten times as fast; wheels of PyYAML have it, other builds may not.
_Parser = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Words(_Parser):  # type: ignore[valid-type, misc]
    """A loader for which every word is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, PyYAML's own name

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        """Build a mapping of unique, textual keys; PyYAML takes the last of several and any kind."""
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None or key.tag not in (TAG + "str", TAG + "int"):
                raise ValueError(f"line {key.start_mark.line + 1}: a key is a word, not {_shown(key)}")
            if name in mapping:
                raise ValueError(f"line {key.start_mark.line + 1}: {name!r} is said twice")
            mapping[name] = self.construct_object(value, deep=True)
        return mapping

    def construct_map(self, node: Any) -> Any:
        """Build a mapping at once, not in two steps as PyYAML does for mappings that hold themselves."""
        return self.construct_mapping(node)


class _Values(_Words):
    """A loader that tells numbers, true, false and null from text."""

    def construct_int(self, node: Any) -> int:
        """Read a whole number, in tens also behind a zero."""
        return int(self.construct_scalar(node))

    def construct_float(self, node: Any) -> float:
        """Read a number with a point or an exponent."""
        return float(self.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML 1.1 or our own table would not read back as text; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out."""
        return True

    def represent_text(self, text: str) -> Any:
        """Write text; between double quotes where it holds an odd end of line, which PyYAML writes as it is."""
        odd = not set(text).isdisjoint("\x85\u2028\u2029")
        return self.represent_scalar(TAG + "str", text, style='"' if odd else None)


_Words.add_constructor(TAG + "map", _Words.construct_map)
_Values.add_constructor(TAG + "int", _Values.construct_int)
_Values.add_constructor(TAG + "float", _Values.construct_float)
_Dumper.add_representer(str, _Dumper.represent_text)
for _kind, (_pattern, _first) in PLAIN.items():
    for _class in (_Values, _Dumper):
        _class.add_implicit_resolver(TAG + _kind, re.compile(f"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, *, words: bool = False) -> Any:
    """Read a YAML document.

    Args:
        text: The document.
        words: Take everything but lists and mappings as text, whatever it looks like: for names.

    Returns:
        Lists, dictionaries with textual keys, text, numbers, ``True``, ``False``, ``None``.

    Raises:
        ValueError: With a line, for what is not YAML, has a tag, an odd or repeated key, or is beyond
            ``LIMITS.nodes`` or ``LIMITS.depth``.

    >>> parse_yaml("{rate: 1e-3, flip: no, size: [010, 20], when: 2020-01-01}")
    {'rate': 0.001, 'flip': 'no', 'size': [10, 20], 'when': '2020-01-01'}
    >>> parse_yaml("[yes, 012, null]", words=True)
    ['yes', '012', 'null']

    """
    loader: Any = _Words if words else _Values
    try:
        _measure(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{line}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _measure(events: Iterator[Any]) -> None:
    """Count what a document unfolds to, and its depth, from its events: nothing is built yet."""
    sizes: dict[str, int] = {}  # of what has an anchor
    open_: list[tuple[str | None, int]] = []  # anchors of brackets not yet closed, and the nodes before them
    count = 0
    for event in events:
        if getattr(event, "tag", None) not in TAGS:
            raise ValueError(f"line {event.start_mark.line + 1}: a tag ({event.tag}), which is not read here")
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
        else:
            anchor, before = getattr(event, "anchor", None), count
            count += _own_size(event, sizes)
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, before))
        elif anchor is not None:
            sizes[anchor] = count - before
        if len(open_) > LIMITS.depth:
            raise ValueError(f"more than {LIMITS.depth} brackets in brackets: {LIMITS.remedy('depth')}")
        if count > LIMITS.nodes:
            raise ValueError(f"unfolds to more than {LIMITS.nodes} values: {LIMITS.remedy('nodes')}")


def _own_size(event: yaml.Event, sizes: Mapping[str, int]) -> int:
    """Return how many values an event adds: an alias as many as it stands for."""
    if not isinstance(event, yaml.AliasEvent):
        return int(isinstance(event, yaml.NodeEvent))
    if event.anchor is None or event.anchor not in sizes:
        raise ValueError(f"*{event.anchor} stands for nothing, or holds itself")
    return sizes[event.anchor]


def _shown(key: Any) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"


def read_yaml(path: Path, *, fix: str, words: bool = False) -> Any:
    """Read a YAML file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        fix: What to do about a file that is no use, for the end of the error message.
        words: As of ``parse_yaml``.

    Raises:
        BadFile: For what cannot be read, is larger than ``LIMITS.text_bytes``, or ``parse_yaml`` refuses.

    """
    try:
        if path.stat().st_size > LIMITS.text_bytes:
            raise BadFile(path, f"more than {LIMITS.text_bytes} bytes of text", LIMITS.remedy("text_bytes"))
        return parse_yaml(path.read_text("utf-8-sig"), words=words)
    except UnicodeDecodeError:
        raise BadFile(path, "not UTF-8 text", "save it as UTF-8") from None
    except BadFile:
        raise
    except (OSError, ValueError) as error:
        raise BadFile(path, f"not usable ({error})", fix) from None


def format_yaml(document: Mapping[str, Any]) -> str:
    r"""Write a document that ``parse_yaml`` reads back as it was.

    >>> format_yaml({"names": ["no", "1e3", "straße"], "rate": 1e-10})
    "names: ['no', '1e3', straße]\nrate: 1.0e-10\n"
    """
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True))


def numbers_in(text: str) -> list[float] | str:
    """Read numbers between commas, blanks or an x, ``64,64`` or ``64x64``, with or without brackets.

    Returns:
        The numbers, whole ones as ``int``; the text itself where it is something else.

    >>> numbers_in("64x48"), numbers_in("(0.5, 2)"), numbers_in("large")
    ([64, 48], [0.5, 2], 'large')
    """
    words = re.split(r"\s*[,x×;]\s*|\s+", text.strip().strip("[]()").strip())
    try:
        return [int(word) if word.lstrip("-").isdecimal() else float(word) for word in words]
    except ValueError:
        return text
