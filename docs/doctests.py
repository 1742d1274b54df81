"""A griffe extension: examples in docstrings (``>>> …``) are shown as code, wherever they stand."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Fences the doctests of every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Put ``` around each run of lines that begins with ``>>>`` and ends before an empty line."""
    lines: list[str] = []
    inside = shown = False  # within an example; within a section that griffe shows as examples itself
    for line in text.splitlines():
        if line and not line[0].isspace():
            shown = line == "Examples:"
        if not inside and not shown and line.lstrip().startswith(">>> "):
            indent = line[: len(line) - len(line.lstrip())]
            lines += ["", f"{indent}```pycon"]
            inside = True
        if inside and not line.strip():
            lines.append(f"{indent}```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, f"{indent}```"] if inside else lines)
