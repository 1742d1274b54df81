"""Times that can be compared, on clocks that the tests move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fullyconv.bench import Machine, Timing, Watch, race
from fullyconv.bench.timing import YARDSTICK_CALLS, _busy_seconds


class Clocks:
    """A machine whose time passes only where a test says so."""

    def __init__(self) -> None:
        self.now = self.own = self.busy = 0.0
        self.log: list[str] = []

    def machine(self, *, says: bool = True) -> Machine:
        return Machine(lambda: self.now, lambda: self.own, lambda: self.busy if says else None)

    def work(self, name: str, *seconds: float, neighbours: float = 0.0) -> Callable[[], None]:
        """Make work that takes these seconds in turn, on one core, while neighbours use a share of another."""
        calls = 0

        def run() -> None:
            nonlocal calls
            took = seconds[calls % len(seconds)]
            calls += 1
            self.log.append(name)
            self.now += took
            self.own += took
            self.busy += took * (1 + neighbours)

        return run

    def watch(self, *seconds: float, neighbours: float = 0.0, says: bool = True) -> Watch:
        return Watch(self.work("yardstick", *seconds, neighbours=neighbours), self.machine(says=says))


def test_each_variant_is_timed_once_a_round_in_changing_order() -> None:
    clocks = Clocks()
    variants = {"a": clocks.work("a", 1.0), "b": clocks.work("b", 2.0), "c": clocks.work("c", 3.0)}
    found = race(variants, rounds=3, watch=clocks.watch(0.5), at_least=0.0)
    assert {name: timing.seconds for name, timing in found.items()} == {"a": (1,) * 3, "b": (2,) * 3, "c": (3,) * 3}
    assert list(found) == ["a", "b", "c"]
    first, *turns = "".join(name[0] for name in clocks.log).split("y" * YARDSTICK_CALLS)
    assert first == "abc"
    assert [sorted(turn) for turn in turns] == [["a", "b", "c"]] * 3
    race(variants, rounds=30, watch=clocks.watch(0.5), at_least=0.0)
    assert len(set("".join(name[0] for name in clocks.log).split("y" * YARDSTICK_CALLS))) == 6  # every order comes up


def test_the_first_call_is_not_counted_and_the_middle_one_of_the_rest_is() -> None:
    clocks = Clocks()
    found = race({"a": clocks.work("a", 99.0, 3.0, 1.0, 2.0)}, rounds=3, watch=clocks.watch(0.5), at_least=0.0)["a"]
    assert found.seconds == (3.0, 1.0, 2.0)
    assert (found.median, found.low, found.high, found.spread) == (2.0, 1.0, 3.0, 1.0)


def test_quick_variants_are_called_until_a_sample_is_long_enough() -> None:
    clocks = Clocks()
    found = race({"a": clocks.work("a", 0.25)}, rounds=2, watch=clocks.watch(0.5), at_least=1.0)["a"]
    assert found.seconds == (0.25, 0.25)
    assert clocks.log.count("a") == 2 + 2 * 4


@pytest.mark.parametrize(("at_most", "rounds"), [(1000.0, 9), (45.0, 5), (1.0, 3)])
def test_no_round_begins_after_the_time_given_but_three_there_are(at_most: float, rounds: int) -> None:
    clocks = Clocks()
    found = race({"a": clocks.work("a", 10.0)}, rounds=9, watch=clocks.watch(0.0), at_least=0.0, at_most=at_most)
    assert len(found["a"].seconds) == rounds


def test_a_quiet_machine_gets_no_remark() -> None:
    clocks = Clocks()
    watch = clocks.watch(1.0, 1.01, 0.99, neighbours=0.05)
    race({"a": clocks.work("a", 1.0, neighbours=0.05)}, rounds=9, watch=watch)
    assert watch.busy == pytest.approx(0.05)
    assert watch.verdict() is None


def test_what_other_processes_use_is_noticed() -> None:
    clocks = Clocks()
    watch = clocks.watch(0.0)
    race({"a": clocks.work("a", 1.0, neighbours=0.5)}, watch=watch)
    assert watch.busy == pytest.approx(0.5)
    assert "other processes used 0.50 cores" in (watch.verdict() or "")


def test_a_yardstick_that_changes_is_noticed_where_the_system_counts_nothing() -> None:
    clocks = Clocks()
    watch = clocks.watch(*[9.0, *[1.0] * 7] * 2, *[9.0, *[2.0] * 7] * 2, says=False)  # the first call does not count
    race({"a": clocks.work("a", 1.0, neighbours=0.9)}, rounds=8, watch=watch)
    assert watch.busy == 0.0
    verdict = watch.verdict() or ""
    assert "2.00 times as long" in verdict
    assert "other processes" not in verdict


def test_a_watch_goes_over_several_races() -> None:
    clocks = Clocks()
    watch = clocks.watch(0.0)
    race({"a": clocks.work("a", 1.0)}, rounds=3, watch=watch)
    race({"a": clocks.work("a", 1.0, neighbours=1.0)}, rounds=3, watch=watch)
    assert watch.watched == pytest.approx(6.0)
    assert watch.busy == pytest.approx(0.5)


def test_one_sample_has_no_spread() -> None:
    assert Timing((2.0,)).spread == 0.0


def test_the_cpu_time_of_all_leaves_out_what_waits(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 10 40 99999 500 3 2 45 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    from os import sysconf

    assert _busy_seconds(str(stat)) == 200 / sysconf("SC_CLK_TCK")
    assert _busy_seconds(str(tmp_path / "none")) is None


def test_the_clocks_of_this_machine_run() -> None:
    watch = Watch()
    race({"a": lambda: sum(range(20_000))}, rounds=3, watch=watch)
    assert len(watch.steps) == 3
    assert all(step > 0 for step in watch.steps)
    assert watch.machine.own() > 0
