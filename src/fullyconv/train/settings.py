"""What ``--set`` takes: words ``key=value``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel

from fullyconv.documents import parse_yaml
from fullyconv.train.recipe import Recipe


def parse_settings(pairs: Iterable[str], kind: type[BaseModel] = Recipe) -> dict[str, Any]:
    """Read ``key=value`` words; values are YAML, so numbers, lists and null are themselves.

    Text is what is written: ``group=[^_]+`` and ``hold_out=0012`` need no quotes in quotes.

    Args:
        pairs: The words; of a chain's stage the key is ``STAGE.KEY``.
        kind: The recipe that they are for, whose types say which values are text.

    Returns:
        The values by their keys, not checked yet.

    Raises:
        ValueError: For a word without ``=``, or a value that is not YAML.

    >>> parse_settings(["group=[^_]+", "hold_out=0012", "epochs=20"])
    {'group': '[^_]+', 'hold_out': '0012', 'epochs': 20}
    """
    settings = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"--set {pair}: write key=value, for example --set epochs=20")
        try:
            settings[key] = _text(key.rpartition(".")[2], value, kind)
            if settings[key] is None:
                settings[key] = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"--set {pair}: {error}") from None
    return settings


def _text(key: str, value: str, kind: type[BaseModel]) -> str | None:
    """Return a value as it is written, where its key takes text; ``None`` for what YAML is to read."""
    field = kind.model_fields.get(key)
    kinds = () if field is None else get_args(field.annotation) or (field.annotation,)
    if str not in kinds or not value or value[0] in "'\"" or value in ("null", "~"):
        return None
    return None if int in kinds and value.isdecimal() else value
