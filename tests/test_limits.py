import re
from dataclasses import fields
from pathlib import Path

import pytest

from fullyconv.limits import PREFIX, Limits, read_limits

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"


def test_every_limit_can_be_raised_by_the_environment() -> None:
    for field in fields(Limits):
        changed = read_limits({PREFIX + field.name.upper(): "12345", "PATH": "/bin"})
        assert getattr(changed, field.name) == 12345
        others = [other.name for other in fields(Limits) if other.name != field.name]
        assert all(getattr(changed, name) == getattr(Limits(), name) for name in others)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "", "nan"])
def test_a_limit_that_is_no_whole_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"FULLYCONV_MAX_PIXELS.*whole number of at least 1"):
        read_limits({"FULLYCONV_MAX_PIXELS": text})


def test_a_limit_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="FULLYCONV_MAX_PIXEL: no limit"):
        read_limits({"FULLYCONV_MAX_PIXEL": "5"})
    with pytest.raises(AttributeError, match="no limit is called 'pixel'"):
        Limits().pixel = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [0, -5, True, 1.5, "7"])
def test_assignment_checks_as_well(value: object) -> None:
    with pytest.raises(ValueError, match="whole number of at least 1"):
        Limits().bands = value  # type: ignore[assignment]


def test_the_page_lists_every_limit_with_its_value() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE))
    assert {name: int(value.replace(",", "")) for name, value in rows.items()} == {
        field.name: field.default for field in fields(Limits)
    }
