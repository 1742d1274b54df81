"""Reading ahead: the next pictures are decoded while one is computed, within a bounded share of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")

FLYING_BYTES = 128 << 20  # two or three photos of 12 megapixels; a larger picture travels alone
FLYING = 8  # pictures that are read, computed or written at once, at most


class Room:
    """The memory for what is between reading and writing.

    The next is read only while what is on its way takes less than the budget, so all of it takes no more than the
    budget and one picture; nobody knows how large a picture is before it has been read.

    Args:
        budget: Bytes.
        most: How many things may be on their way at once.

    >>> room = Room(100)
    >>> room.enter(), room.grow(100), room.free
    (True, None, False)
    >>> room.leave(100), room.free
    (None, True)
    """

    def __init__(self, budget: int = FLYING_BYTES, most: int = FLYING) -> None:
        self._budget, self._most = budget, most
        self._bytes = self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def free(self) -> bool:
        """Whether one more may enter."""
        return self._bytes < self._budget and self._count < self._most

    def enter(self) -> bool:
        """Wait until there is room for one more.

        Returns:
            Whether it may go on: not after ``close``.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.free)
            self._count += not self._closed
            return not self._closed

    def grow(self, size: int) -> None:
        """Note the bytes of what has entered.

        Args:
            size: Bytes.
        """
        with self._changed:
            self._bytes += size

    def leave(self, size: int) -> None:
        """Let one go.

        Args:
            size: Its bytes.
        """
        with self._changed:
            self._bytes -= size
            self._count -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let nothing in any more, and whoever waits go home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Carried(Generic[Read]):
    """What was read of one item, or the error that it gave, until it has ``arrived``."""

    def __init__(self, room: Room, size: int, value: Read | None, error: Exception | None) -> None:
        self._room, self._size, self._value, self._error = room, size, value, error

    def value(self) -> Read:
        """Return what was read; it is not kept here any longer.

        Raises:
            Exception: What reading raised.
        """
        if self._error is not None:
            raise self._error
        value, self._value = self._value, None
        return value  # type: ignore[return-value]

    def arrived(self) -> None:
        """Give its room to another."""
        self._room.leave(self._size)


@contextmanager
def reading_ahead(
    items: Iterable[Item], read: Callable[[Item], Read], *, size: Callable[[Read], int], room: Room | None = None
) -> Iterator[Iterator[Carried[Read]]]:
    """Read items in a thread of its own, ahead of who uses them.

    Decoders let other threads run meanwhile, so this costs the computing next to nothing.

    Args:
        items: What to read, in this order.
        read: How.
        size: The bytes that a read thing takes until it has arrived, what is computed from it included.
        room: Where it waits.

    Yields:
        What was read, in the order of ``items``; call ``arrived`` of each when it is not needed any more.

    >>> with reading_ahead([1, 2, 3], str, size=len) as carried:
    ...     for each in carried:
    ...         print(each.value())
    ...         each.arrived()
    1
    2
    3
    """
    room = room or Room()
    ready: SimpleQueue[Carried[Read] | None] = SimpleQueue()

    def run() -> None:
        for item in items:
            if not room.enter():
                return
            ready.put(_read(item, read, size, room))
        ready.put(None)

    # A daemon: an iterator that is dropped half-way must not keep the program from its end; reading tears nothing.
    threading.Thread(target=run, name="reading ahead", daemon=True).start()
    try:
        yield iter(ready.get, None)
    finally:
        room.close()


def _read(item: Item, read: Callable[[Item], Read], size: Callable[[Read], int], room: Room) -> Carried[Read]:
    try:
        value = read(item)
    except Exception as error:  # whose it is decides who uses it
        return Carried(room, 0, None, error)
    taken = size(value)
    room.grow(taken)
    return Carried(room, taken, value, None)
