from __future__ import annotations

import threading

import pytest

from fullyconv import threads
from fullyconv.threads import Team


@pytest.fixture(params=["PyTorch's", "ours"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "ours":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    return str(request.param)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_every_job_is_done_once_and_results_are_in_order(kind: str, size: int, count: int) -> None:
    done: list[int] = []

    def job(number: int) -> int:
        done.append(number)
        return number * number

    with Team(size) as team:
        assert team.run([lambda n=n: job(n) for n in range(count)]) == [n * n for n in range(count)]
    assert sorted(done) == list(range(count))


def test_jobs_run_side_by_side(kind: str) -> None:
    meeting = threading.Barrier(2, timeout=20)
    with Team(2) as team:
        assert sorted(team.run([meeting.wait, meeting.wait])) == [0, 1]


def test_an_error_reaches_the_caller_and_the_team_goes_on(kind: str) -> None:
    def fail() -> None:
        raise ValueError("no")

    with Team(2) as team:
        with pytest.raises(ValueError, match="no"):
            team.run([int, fail, int])
        assert team.run([int, int]) == [0, 0]
