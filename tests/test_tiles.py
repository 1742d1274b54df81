from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.tiles import Span, plan_axis, plan_tiles


def multiple(length: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``length``."""
    return next(number for number in range(0, length + step, step) if number >= length)


lengths, reaches, strides = st.integers(1, 300), st.integers(0, 60), st.sampled_from([1, 2, 3, 8, 32])


@given(st.tuples(lengths, lengths), st.integers(1, 100), st.tuples(reaches, reaches), st.tuples(strides, strides))
def test_cores_cover_each_pixel_once_and_tiles_read_no_more_than_their_reach(
    size: tuple[int, int], core: int, reach: tuple[int, int], align: tuple[int, int]
) -> None:
    covered = np.zeros(size, int)
    tiles = plan_tiles(*size, core=core, reach=reach, align=align)
    for tile in tiles:
        covered[tile.rows.core_start : tile.rows.core_stop, tile.columns.core_start : tile.columns.core_stop] += 1
        for axis, span in enumerate((tile.rows, tile.columns)):
            around = multiple(reach[axis], align[axis])
            assert span.core_start % multiple(core, align[axis]) == 0
            assert span.core_stop == min(span.core_start + multiple(core, align[axis]), size[axis])
            assert (span.start, span.stop) == (
                max(0, span.core_start - around),
                min(size[axis], span.core_stop + around),
            )
    assert (covered == 1).all()
    corners = [(tile.rows.core_start, tile.columns.core_start) for tile in tiles]
    assert corners == sorted(corners)


@pytest.mark.parametrize("wrong", [{"length": 0}, {"core": 0}, {"align": 0}, {"reach": -1}])
def test_senseless_plans_are_refused(wrong: dict[str, int]) -> None:
    given = {"length": 1, "core": 1, "reach": 0, "align": 1}
    assert plan_axis(**given) == [Span(0, 1, 0, 1)]
    with pytest.raises(ValueError, match="positive"):
        plan_axis(**(given | wrong))
