"""Films: every frame labelled in its turn, the classes painted over it, the timing kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fullyconv.draw import overlay
from fullyconv.files import BadFile, whole_file
from fullyconv.outputs import PREDICTIONS, Outputs
from fullyconv.predict.finding import find_files
from fullyconv.predict.image import Segmenter
from fullyconv.predict.work import Outcome, Task

if TYPE_CHECKING:
    from av.container import InputContainer

FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")
PAINTED = "_overlay.mp4"
QUALITY = "20"  # x264's: 18 is told from the original by nobody, 23 is usual

Told = Callable[[str, int, int], None]
"""Is told of a film how many frames are done, and of how many (0 where the file does not say)."""


def import_av() -> Any:
    """Return the module ``av``; raises ``ImportError`` in one sentence where it is not installed."""
    try:
        import av
    except ImportError:
        raise ImportError("films need PyAV: pip install 'fullyconv[video]'") from None
    return av


def is_film(name: Path | str) -> bool:
    """Return whether a name is that of a film.

    >>> is_film("clip.MP4"), is_film("clip.png")
    (True, False)
    """
    return Path(name).suffix.lower() in FILMS


def find_films(inputs: Iterable[Path | str], *, out: Path | None = None) -> list[Task]:
    """Expand files and globs to films, as ``find_files`` does; films in folders have to be named."""
    named = [each for each in inputs if is_film(each)]
    return find_files(named, lambda path: is_film(path) and path.is_file(), "film", FILMS, out=out) if named else []


def predict_films(
    segmenter: Segmenter, tasks: Sequence[Task], out: Path, *, overwrite: bool = False, tell: Told = lambda *_: None
) -> Iterator[Outcome]:
    """Label films and write ``STEM_overlay.mp4`` of each: its frames in their order and at their times, without sound.

    Args:
        segmenter: The model.
        tasks: What to predict, as ``find_films`` gives it.
        out: The output folder.
        overwrite: Replace outputs of earlier runs that have been changed since or were made of another input, too.
        tell: Is told of every frame.

    Yields:
        One outcome per film, in their order.

    Raises:
        BadFile: Before the first film if an output may not be written.
        ImportError: Where PyAV is not installed.
    """
    import_av()
    outputs = Outputs(out, inputs=(task.image for task in tasks), overwrite=overwrite, by=PREDICTIONS)
    names = {f"{task.target.as_posix()}{PAINTED}": task.image for task in tasks}
    outputs.check(names, made_of=names)
    with outputs.alone():
        for task, name in zip(tasks, names, strict=True):
            try:
                with outputs.writing(name, made_of=task.image), whole_file(out / name) as draft:
                    paint_film(segmenter, task.image, draft, tell=tell)
            except BadFile as problem:
                yield Outcome(task, problem=problem)
            else:
                yield Outcome(task, out / name)


def paint_film(segmenter: Segmenter, path: Path, target: Path, *, tell: Told = lambda *_: None) -> int:
    """Label one film.

    Args:
        segmenter: The model.
        path: The film.
        target: The file to write, MP4 (H.264).
        tell: Is told of every frame.

    Returns:
        The number of frames.

    Raises:
        BadFile: For what is no film, or breaks off.
    """
    av = import_av()
    done = 0
    try:
        with av.open(str(path)) as film, av.open(str(target), "w", format="mp4") as painted:
            if not film.streams.video:
                raise BadFile(path, "no pictures in it", "name a film, or leave it out")
            stream, written = film.streams.video[0], None
            for frame in _frames(film):
                pixels = _upright(frame)
                if written is None:
                    written = _opened(painted, stream, pixels.shape)
                labels = segmenter.labels(pixels[None])[0]
                shown = av.VideoFrame.from_ndarray(overlay(pixels, labels, segmenter.classes), format="rgb24")
                shown.pts, shown.time_base = frame.pts, frame.time_base
                painted.mux(written.encode(shown))
                done += 1
                tell(path.name, done, stream.frames)
            if written is None:
                raise BadFile(path, "no frame in it can be read", "copy or download it again, or leave it out")
            painted.mux(written.encode(None))
    except av.error.FFmpegError as error:
        fix = "copy or download it again, convert it to MP4, or leave it out"
        raise BadFile(path, f"cannot be read as a film after {done} frames ({error.strerror})", fix) from None
    return done


def _frames(film: InputContainer) -> Iterator[Any]:
    """Decode frames in the order in which they are shown."""
    for frame in film.decode(video=0):
        if frame.pts is not None:
            yield frame


def _upright(frame: Any) -> np.ndarray:
    """Return a frame's pixels, H x W x 3 uint8, turned as the camera was held."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90) % 4))


def _opened(painted: Any, stream: Any, shape: tuple[int, ...]) -> Any:
    """Open the stream to write, of the film's rate, clock and size."""
    rate = stream.average_rate or Fraction(25)
    written = painted.add_stream("libx264", rate=rate, options={"crf": QUALITY})
    written.height, written.width = shape[:2]
    # Colours of half the resolution, as players expect, where the sides can be halved.
    written.pix_fmt = "yuv444p" if shape[0] % 2 or shape[1] % 2 else "yuv420p"
    written.codec_context.time_base = stream.time_base
    return written
