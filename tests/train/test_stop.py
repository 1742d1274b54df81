from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from fullyconv.train import stop as module
from fullyconv.train.stop import StopRequest, leave_signals_to_parent

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Put everything back, whatever a test leaves."""
    before = {kind: signal.getsignal(kind) for kind in KINDS}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_signal_asks_the_second_interrupts_and_then_all_is_as_before(kind: signal.Signals) -> None:
    heard: list[int] = []
    signal.signal(kind, lambda number, _: heard.append(number))
    before = {each: signal.getsignal(each) for each in KINDS}
    with StopRequest() as stop:
        assert not stop.asked
        signal.raise_signal(kind)
        assert stop.asked
        assert stop.soon()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(kind)
    assert {each: signal.getsignal(each) for each in KINDS} == before
    signal.raise_signal(kind)
    assert heard == [kind]


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.raise_signal(signal.SIGHUP)
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_what_a_shell_ignores_for_jobs_in_the_background_stops_a_run(kind: signal.Signals) -> None:
    signal.signal(kind, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(kind)
        assert stop.asked
    assert signal.getsignal(kind) == signal.SIG_IGN


def test_other_threads_change_no_handler() -> None:
    before = {each: signal.getsignal(each) for each in KINDS}
    found = []

    def run() -> None:
        with StopRequest() as stop:
            found.append(({each: signal.getsignal(each) for each in KINDS}, stop.asked))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(before, False)]


def test_soon_waits_a_moment_for_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.4)
    stop = StopRequest()
    start, busy = time.monotonic(), time.thread_time()
    assert not stop.soon()
    assert 0.4 <= time.monotonic() - start < 5
    assert time.thread_time() - busy < 0.1  # it sleeps
    timer = threading.Timer(0.1, lambda: setattr(stop, "asked", True))
    timer.start()
    assert stop.soon()
    start = time.monotonic()
    assert stop.soon()
    assert time.monotonic() - start < 0.3


def test_a_worker_ends_when_its_parent_ends_it() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_signals_to_parent(0)
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)]
    assert handlers == [signal.SIG_IGN, signal.SIG_IGN, signal.SIG_DFL]
