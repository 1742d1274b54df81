"""The package ``openvino``, imported where it is used and without its reports over the network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep OpenVINO and NNCF, while they are imported, from a package that reports their use over the network."""
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    if before is None:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            sys.modules.pop(name, None)


def import_openvino(what: str = "engine 'openvino'") -> Any:
    """Return the module ``openvino``; raises ``ImportError`` in one sentence where it is not installed.

    Args:
        what: Who needs it, for the sentence.
    """
    try:
        with quiet_import():
            import openvino
    except ImportError:
        raise ImportError(f"{what} needs OpenVINO: pip install 'fullyconv[openvino]'") from None
    return openvino
