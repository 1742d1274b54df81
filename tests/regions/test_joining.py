"""A map that comes in bands has the polygons of the whole map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fullyconv.regions import Polygon, trace
from fullyconv.regions.joining import TooManyRegions, trace_rows

Outline = tuple[int, int, list[list[list[int]]]]


def outline(polygon: Polygon) -> Outline:
    """A polygon in numbers that compare."""
    return polygon.label, polygon.pixels, [ring.tolist() for ring in polygon.rings]


@given(
    labels=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: arrays(np.int32, size, elements=st.integers(-1, 2))
    ),
    cuts=st.sets(st.integers(1, 8)),
)
def test_as_of_the_whole(labels: np.ndarray, cuts: set[int]) -> None:
    bands = [band for band in np.split(labels, sorted(cuts)) if len(band)]
    assert sorted(map(outline, trace_rows(bands))) == sorted(map(outline, trace(labels)))


def test_noise_in_bands_of_one_row_and_of_many() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (60, 90))
    whole = sorted(map(outline, trace(labels)))
    for rows in (1, 7, 60):
        assert sorted(map(outline, trace_rows(np.split(labels, range(rows, 60, rows))))) == whole


def test_what_goes_on_for_ever_is_refused() -> None:
    comb = np.tile(np.arange(100) % 2, (50, 1))
    comb[-1] = 0
    with pytest.raises(TooManyRegions):
        list(trace_rows(np.split(comb, 50), most=100))
