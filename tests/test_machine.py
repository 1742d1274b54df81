from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from fullyconv.machine import choose_device
from fullyconv.memory import PeakMemory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of a block")
def test_peak_memory_is_what_a_block_takes_and_not_what_was_held_before() -> None:
    held = np.ones(10 << 20)  # 80 MiB
    with PeakMemory(torch.device("cpu")) as larger:
        np.ones(5 << 20)
    with PeakMemory(torch.device("cpu")) as smaller:
        np.ones(1 << 20)
    assert held.nbytes > larger.taken
    assert larger.taken == pytest.approx(40 << 20, rel=0.2)
    assert smaller.taken == pytest.approx(8 << 20, rel=0.5)


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="device is auto, cpu, cuda or mps, not 'gpu'"):
        choose_device("gpu")  # type: ignore[arg-type]
