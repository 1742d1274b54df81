"""How much a service takes on, and from whom."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fullyconv.limits import LIMITS, Limits


class UploadLimits(Limits):
    """What an upload may ask for; who has sent too much cannot raise it."""

    def remedy(self, name: str) -> str:
        """Say what to do, for the end of an error message."""
        return f"send less: this service takes at most {getattr(self, name)} {name}"


@dataclass(frozen=True)
class Settings:
    """The bounds of a service.

    Attributes:
        upload_bytes: The most of one upload.
        pixels: The most of one picture, where the process (``fullyconv.limits``) does not allow less.
        waiting: How many requests may be under way, from the last byte of the upload to the answer; the next ones are
            told to come again (status 503).
        batch: How many waiting pictures of one size are computed together.
        seconds: How long a request may take, from its first byte to its answer.
        patience: Seconds that an upload may take to begin.
        rate: Bytes a second that it has to bring from then on; a slower one is ended (status 408).
        key: What clients have to send as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; empty: nothing.
        hosts: The names by which the service may be asked for; ``*`` is any. With the usual ones no page of someone
            else can read answers by way of a name of its own that it lets point to this machine.

    Raises:
        ValueError: For a bound below 1.

    >>> Settings(waiting=4).batch
    8
    """

    upload_bytes: int = 32 << 20
    pixels: int = 25_000_000
    waiting: int = 64
    batch: int = 8
    seconds: float = 60.0
    patience: float = 10.0
    rate: int = 16 << 10
    key: str = ""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")

    def __post_init__(self) -> None:
        for name in ("upload_bytes", "pixels", "waiting", "batch", "rate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("seconds", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} are more than 0, not {getattr(self, name)}")

    def limits(self) -> Limits:
        """Bound what a picture may ask for by this service's own limits, whatever else the process does.

        Returns:
            The limits that hold in this process, with no more pixels than this service takes.
        """
        return UploadLimits(**asdict(LIMITS) | {"pixels": min(LIMITS.pixels, self.pixels)})
