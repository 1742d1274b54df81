from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fullyconv import ClassSet, Preprocess, Segmenter, build
from fullyconv.predict.video import find_films, paint_film, predict_films

av = pytest.importorskip("av", reason="films need PyAV (extra video)")


def film(path: Path, size: tuple[int, int] = (48, 64), times: tuple[int, ...] = (0, 1, 2, 5, 6, 9, 10, 14)) -> None:
    """Write frames that grow brighter, at uneven times, in tenths of a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "10", "bf": "2"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 20 + 25 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def segmenter() -> Segmenter:
    return Segmenter(build("fcn32s-resnet18", 2), classes=ClassSet(("a", "b")), preprocess=Preprocess())


@pytest.mark.parametrize("size", [(48, 64), (49, 63)])
def test_frames_keep_their_order_and_their_times(tmp_path: Path, size: tuple[int, int]) -> None:
    film(tmp_path / "clip.mkv", size)
    told: list[int] = []
    outcomes = list(
        predict_films(
            segmenter(),
            find_films([tmp_path / "*.mkv"]),
            tmp_path / "out",
            tell=lambda name, done, total: told.append(done),
        )
    )
    assert [outcome.problem for outcome in outcomes] == [None]
    assert told == list(range(1, 9))
    with av.open(str(tmp_path / "out" / "clip_overlay.mp4")) as painted:
        frames = list(painted.decode(video=0))
    assert [round(float(frame.time) * 10) for frame in frames] == [0, 1, 2, 5, 6, 9, 10, 14]
    brightness = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    assert brightness == sorted(brightness)
    assert frames[0].to_ndarray(format="rgb24").shape == (*size, 3)


def test_a_bad_film_is_reported_and_the_rest_done(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no film")
    film(tmp_path / "c.mp4")
    outcomes = list(predict_films(segmenter(), find_films([tmp_path / "*.mp4"]), tmp_path / "out"))
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
    assert "b.mp4: cannot be read as a film after 0 frames" in str(outcomes[1].problem)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["a_overlay.mp4", "c_overlay.mp4"]


def test_labels_are_those_of_the_frames(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", times=(0,))
    model = segmenter()
    assert paint_film(model, tmp_path / "a.mp4", tmp_path / "b.mp4") == 1
    with av.open(str(tmp_path / "a.mp4")) as given, av.open(str(tmp_path / "b.mp4")) as painted:
        pixels, shown = (next(file.decode(video=0)).to_ndarray(format="rgb24") for file in (given, painted))
    expected = np.asarray(model.predict(pixels).overlay()).astype(int)
    assert np.abs(shown.astype(int) - expected).mean() < 6
