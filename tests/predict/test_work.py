"""Reading, computing and writing side by side give what one after the other gives."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv import ClassSet, Preprocess, Segmenter, build
from fullyconv.files import BadFile, whole_file
from fullyconv.outputs import MANIFEST, Outputs
from fullyconv.predict.ahead import Room, reading_ahead
from fullyconv.predict.finding import find_images
from fullyconv.predict.folder import predict_files
from fullyconv.predict.work import Outcome, Pace, Task, Work, work_through


def tasks(count: int) -> list[Task]:
    return [Task(Path(f"in/{index}"), Path(f"{index}")) for index in range(count)]


def number(task: Task) -> int:
    return int(task.image.name)


def write(found: object, target: Path) -> Path:
    path = target.with_name(target.name + ".txt")
    with whole_file(path) as draft:
        draft.write_text(str(found))
    return path


def work(
    read: Callable[[Task], int] = number,
    predict: Callable[[int], object] = lambda value: value * value,
    writer: Callable[[object, Path], Path] = write,
    **more: object,
) -> Work[int, object]:
    return Work((".txt",), read, predict, writer, **more)  # type: ignore[arg-type]


def written(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir() if file.name != MANIFEST}


def naps(seed: int) -> Callable[[], None]:
    rng = np.random.default_rng(seed)
    return lambda: time.sleep(float(rng.random()) * 0.004)


def test_outcomes_come_in_order_whichever_step_is_slow(tmp_path: Path) -> None:
    nap = [naps(seed) for seed in range(3)]

    def read(task: Task) -> int:
        nap[0]()
        if number(task) % 7 == 3:
            raise BadFile(task.image, "broken", "mend it")
        return number(task)

    def predict(value: int) -> object:
        nap[1]()
        if value % 11 == 5:
            raise ValueError("no such: thing")
        return value

    def slow(found: object, target: Path) -> Path:
        nap[2]()
        if found == 8:
            raise OSError(errno.EIO, "no such luck")
        return write(found, target)

    pace = Pace()
    found = list(work_through(tasks(40), Outputs(tmp_path), work(read, predict, slow), pace=pace))
    assert [number(outcome.task) for outcome in found] == list(range(40))
    good = [index for index in range(40) if index % 7 != 3 and index % 11 != 5 and index != 8]
    assert [number(outcome.task) for outcome in found if outcome.problem is None] == good
    assert written(tmp_path) == {f"{index}.txt": str(index) for index in good}
    assert str(found[3].problem) == "in/3: broken: mend it"
    assert str(found[5].problem) == "in/5: no such: thing"
    assert "no such luck" in str(found[8].problem)
    assert pace.inputs == 40
    assert pace.words("picture").startswith("40 pictures in 0.")


def test_reading_and_writing_happen_while_the_model_computes(tmp_path: Path) -> None:
    def read(task: Task) -> int:
        time.sleep(0.01)
        return number(task)

    def predict(value: int) -> object:
        time.sleep(0.03)
        return value

    def slow(found: object, target: Path) -> Path:
        time.sleep(0.01)
        return write(found, target)

    pace = Pace()
    list(work_through(tasks(12), Outputs(tmp_path), work(read, predict, slow), pace=pace))
    assert pace.computing >= 12 * 0.03
    assert pace.waiting < 12 * 0.01  # one after the other, it would be twice that at least


def test_no_more_is_on_its_way_than_there_is_room_for(tmp_path: Path) -> None:
    lock, live, worst = threading.Lock(), 0, 0

    def read(task: Task) -> int:
        nonlocal live, worst
        with lock:
            live += 1
            worst = max(worst, live)
        return number(task)

    def slow(found: object, target: Path) -> Path:
        nonlocal live
        time.sleep(0.002)
        path = write(found, target)
        with lock:
            live -= 1
        return path

    list(work_through(tasks(30), Outputs(tmp_path / "few"), work(read, writer=slow)))
    assert 1 < worst <= 8
    worst = 0
    list(work_through(tasks(9), Outputs(tmp_path / "large"), work(read, writer=slow, size=lambda _: 1 << 30)))
    assert worst == 1  # large ones travel alone
    list(work_through(tasks(9), Outputs(tmp_path / "one"), work(read, writer=slow, most=1)))
    assert worst == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_work_after_what_was_written(tmp_path: Path, code: int) -> None:
    def full(found: object, target: Path) -> Path:
        if target.name == "3":
            raise OSError(code, "No space left")
        return write(found, target)

    outcomes: Iterator[Outcome] = work_through(tasks(9), Outputs(tmp_path), work(writer=full))
    done: list[int] = []
    with pytest.raises(BadFile, match="no more room after 3 of 9"):
        done.extend(number(outcome.task) for outcome in outcomes)
    assert done == [0, 1, 2]
    assert sorted(written(tmp_path)) == ["0.txt", "1.txt", "2.txt"]


def test_where_memory_is_short_a_picture_is_tried_again_alone(tmp_path: Path) -> None:
    on_their_way = threading.Semaphore(8)
    computed: list[int] = []

    def predict(value: int) -> object:
        computed.append(value)
        if value == 5 and computed.count(5) == 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory")
        if value == 7:
            raise MemoryError
        return value

    def slow(found: object, target: Path) -> Path:
        with on_their_way:
            time.sleep(0.02)
        return write(found, target)

    found = list(work_through(tasks(9), Outputs(tmp_path), work(predict=predict, writer=slow)))
    assert [number(outcome.task) for outcome in found if outcome.problem is not None] == [7]
    assert "not enough memory for it" in str(found[7].problem)
    assert (computed.count(5), computed.count(7)) == (2, 2)


def test_a_reader_that_puts_lack_of_memory_into_words_is_asked_again_too(tmp_path: Path) -> None:
    asked: list[int] = []

    def read(task: Task) -> int:
        asked.append(number(task))
        if number(task) == 2 and asked.count(2) == 1:
            try:
                raise MemoryError
            except MemoryError:
                raise BadFile(task.image, "more pixels than this machine has memory for", "split it") from None
        return number(task)

    def slow(found: object, target: Path) -> Path:
        time.sleep(0.05)
        return write(found, target)

    found = list(work_through(tasks(4), Outputs(tmp_path), work(read, writer=slow)))
    assert all(outcome.problem is None for outcome in found)
    assert asked.count(2) == 2


def test_an_error_of_ours_comes_after_what_was_done_before_it(tmp_path: Path) -> None:
    def predict(value: int) -> object:
        if value == 4:
            raise RuntimeError("shapes differ")
        return value

    def slow(found: object, target: Path) -> Path:
        time.sleep(0.01)
        return write(found, target)

    outcomes = work_through(tasks(9), Outputs(tmp_path), work(predict=predict, writer=slow))
    done: list[int] = []
    with pytest.raises(RuntimeError, match="shapes differ"):
        done.extend(number(outcome.task) for outcome in outcomes)
    assert done == [0, 1, 2, 3]
    assert len(written(tmp_path)) == 4


def test_ctrl_c_leaves_whole_files_that_are_listed_as_ours(tmp_path: Path) -> None:
    def predict(value: int) -> object:
        if value == 5:
            raise KeyboardInterrupt
        return str(value) * 100_000

    def slow(found: object, target: Path) -> Path:
        path = target.with_name(target.name + ".txt")
        with whole_file(path) as draft, draft.open("w") as file:
            for _ in range(5):
                time.sleep(0.004)
                file.write(str(found))
        return path

    with pytest.raises(KeyboardInterrupt):
        list(work_through(tasks(9), Outputs(tmp_path), work(predict=predict, writer=slow)))
    found = written(tmp_path)
    assert set(found) <= {f"{index}.txt" for index in range(5)}  # no draft among them
    assert all(len(text) == 500_000 for text in found.values())
    Outputs(tmp_path).check([f"{index}.txt" for index in range(9)])  # and none looks changed


def test_an_iterator_that_is_dropped_stops_its_threads(tmp_path: Path) -> None:
    read: list[int] = []

    def note(task: Task) -> int:
        read.append(number(task))
        return number(task)

    outcomes = work_through(tasks(1000), Outputs(tmp_path), work(note))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    count = len(read)
    time.sleep(0.02)
    assert len(read) <= count + 1
    assert count < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reading ahead", "writing"))]


def test_reading_ahead_gives_errors_where_their_items_are() -> None:
    def read(value: int) -> int:
        return 10 // value

    with reading_ahead([1, 0, 5], read, size=lambda _: 1) as carried:
        assert next(carried).value() == 10
        with pytest.raises(ZeroDivisionError):
            next(carried).value()
        assert next(carried).value() == 2
        assert list(carried) == []


def test_a_room_that_closes_lets_nobody_in() -> None:
    room = Room(most=1)
    assert room.enter()
    entered: list[bool] = []
    waiting = threading.Thread(target=lambda: entered.append(room.enter()))
    waiting.start()
    room.close()
    waiting.join(timeout=5)
    assert entered == [False]


def test_pictures_are_the_same_bytes_as_one_after_the_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "in").mkdir()
    for index in range(9):
        height, width = rng.integers(5, 60, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index}.{'png' if index % 2 else 'jpg'}")
    (tmp_path / "in/bad.png").write_text("no picture")
    model = Segmenter(build("fcn32s-resnet18", 3), classes=ClassSet(("x", "y", "z")), preprocess=Preprocess())
    found = find_images([tmp_path / "in"])
    together = list(predict_files(model, found, tmp_path / "together", probabilities=True))
    alone = [next(predict_files(model, [task], tmp_path / "alone", probabilities=True)) for task in found]
    assert [str(each.problem) for each in together] == [str(each.problem) for each in alone]
    names = sorted(path.name for path in (tmp_path / "alone").iterdir() if path.name != MANIFEST)
    assert len(names) == 27
    for name in names:
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() or (
            name.endswith(".npz")  # holds the time of writing
        )
    with np.load(tmp_path / "together/3.npz") as one, np.load(tmp_path / "alone/3.npz") as other:
        assert (one["probabilities"] == other["probabilities"]).all()


HOLDER = """
import sys
from pathlib import Path
from fullyconv.outputs import Outputs
with Outputs(Path(sys.argv[1])).alone():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadFile, match="another command is writing into it"):
            next(work_through(tasks(3), Outputs(out), work()))
        holder.stdin.close()
    assert [outcome.problem for outcome in work_through(tasks(3), Outputs(out), work())] == [None] * 3
    assert sorted(file.name for file in out.iterdir()) == [MANIFEST, "0.txt", "1.txt", "2.txt"]
