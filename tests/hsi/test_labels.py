from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.hsi.labels import class_set, labels_from_abundances
from fullyconv.types import ClassSet


@given(st.integers(1, 300))
def test_every_class_gets_a_colour_of_its_own(count: int) -> None:
    classes = class_set(count)
    assert len({*classes.colours, (0, 0, 0)}) == count + 1
    assert classes.values == tuple(range(1, count + 1))


def test_names_of_the_file_are_kept_where_there_are_enough() -> None:
    assert class_set(2, ("oak", "pine")).names == ("oak", "pine")
    assert class_set(2, ("oak", "pine", "ash")).names == ("oak", "pine", "ash")
    assert class_set(2, ("oak",)).names == class_set(2).names == ("class_1", "class_2")
    assert isinstance(class_set(2, ("oak", "oak")), ClassSet)


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_thresholds_are_shares(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold in 0\.\.1"):
        labels_from_abundances(np.ones((1, 1, 2)), threshold)
