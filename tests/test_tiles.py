from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.tiles import plan_axis, plan_tiles


@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 100), st.integers(0, 60), st.sampled_from([1, 2, 8, 32])
)
def test_cores_cover_each_pixel_once_and_tiles_hold_their_reach(
    height: int, width: int, core: int, reach: int, align: int
) -> None:
    covered = np.zeros((height, width), int)
    for tile in plan_tiles(height, width, core=core, reach=(reach, reach), align=(align, align)):
        y, x = tile.rows, tile.columns
        covered[y.core_start : y.core_stop, x.core_start : x.core_stop] += 1
        for span, length in ((y, height), (x, width)):
            assert span.start % align == 0
            assert span.start == 0 or span.core_start - span.start >= reach
            assert span.stop == length or span.stop - span.core_stop >= reach
    assert (covered == 1).all()


def test_senseless_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        plan_axis(0, core=1, reach=0, align=1)
