from __future__ import annotations

from pathlib import Path

import pytest

from fullyconv.train.checkpoints import MANIFEST, PARTS, Checkpoints


def save(checkpoints: Checkpoints, word: str, *, alone: bool = False) -> None:
    def fill(folder: Path) -> None:
        for name in PARTS:
            (folder / name).write_text(f"{name} {word}")

    checkpoints.save(fill, alone=alone)


def test_the_one_before_is_kept_until_the_run_ends(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "last")
    assert checkpoints.newest() == (None, [])
    for word, numbers in (("a", [1]), ("b", [1, 2]), ("c", [2, 3])):
        save(checkpoints, word)
        assert checkpoints.numbers() == numbers
    save(checkpoints, "d", alone=True)
    assert checkpoints.numbers() == [4]
    assert checkpoints.newest() == (tmp_path / "last" / "4", [])
    assert sorted(path.name for path in (tmp_path / "last" / "4").iterdir()) == sorted([*PARTS, MANIFEST])


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize("part", [*PARTS, MANIFEST])
def test_a_damaged_one_is_passed_over_and_the_next_save_removes_it(tmp_path: Path, part: str, harm: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    for word in "ab":
        save(checkpoints, word)
    file = tmp_path / "2" / part
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes({"flip": content, "cut": content[:-1], "empty": b""}[harm])
    again = Checkpoints(tmp_path)
    found, remarks = again.newest()
    assert found == tmp_path / "1"
    (remark,) = remarks
    assert f"{tmp_path / '2'} is damaged (" in remark
    assert part in remark
    save(again, "c")
    assert again.numbers() == [1, 3]


def test_a_failed_save_changes_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, "a")

    def fail(folder: Path) -> None:
        (folder / PARTS[0]).write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(fail, alone=False)
    assert checkpoints.newest() == (tmp_path / "1", [])
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
