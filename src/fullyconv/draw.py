"""Pictures of labels: colours, overlays, legends, error maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fullyconv.files import whole_file
from fullyconv.types import ClassSet

Colour = tuple[int, int, int]

UNSCORED: Colour = (224, 224, 192)  # VOC's colour of void
ERROR_COLOURS: dict[str, Colour] = {"wrong": (214, 40, 57), "right": (255, 255, 255), "not scored": (200, 200, 200)}
LEGEND_PX = 260  # room for two columns of names
RUN_LENGTHS = 3  # zlib's Z_RLE
BAND_PX = 1 << 15  # pixels painted at once: what is in between stays in the cache, whatever the picture's size


def save_picture(picture: np.ndarray | Image.Image, path: Path) -> None:
    """Write a picture, or an H x W x 3 array, as PNG; the file appears whole or not at all.

    Palette pictures hold areas of one number: coded by run lengths they take a tenth of the usual method's time to
    write, and a fifth more bytes.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with whole_file(path) as draft:
        image.save(draft, "PNG", **png_options(image))


def png_options(image: Image.Image) -> dict[str, int]:
    """Return how a picture is coded as PNG: palette pictures by run lengths (see ``save_picture``)."""
    return {"compress_level": 1, "compress_type": RUN_LENGTHS} if image.mode == "P" else {}


def false_colours(pixels: np.ndarray) -> np.ndarray:
    """Show the first three channels of H x W x C levels as red, green and blue, H x W x 3 uint8.

    >>> false_colours(np.zeros((2, 3, 5), np.uint8)).shape
    (2, 3, 3)
    """
    return np.ascontiguousarray(np.clip(pixels[..., :3], 0, 255).astype(np.uint8, copy=False))


def colourise(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Paint labels in the colours of their classes.

    Args:
        labels: H x W; what is no class gets VOC's void colour.
        classes: Whose colours.

    Returns:
        H x W x 3 uint8.

    >>> colourise(np.array([[1, -1]]), ClassSet(("sky", "road"), colours=((0, 0, 255), (9, 9, 9)))).tolist()
    [[[9, 9, 9], [224, 224, 192]]]
    """
    table = np.array([*classes.colours, UNSCORED], np.uint8)
    painted: np.ndarray = table.take(_known(labels, classes), axis=0)
    return painted


def overlay(image: np.ndarray, labels: np.ndarray, classes: ClassSet, *, alpha: float = 0.5) -> np.ndarray:
    """Blend painted labels over an image.

    Args:
        image: H x W x 3 uint8.
        labels: H x W.
        classes: Whose colours.
        alpha: The share of the paint, 0..1.

    Returns:
        H x W x 3 uint8.
    """
    paint = np.array([*classes.colours, UNSCORED], np.uint8)
    # All that can come out: class x value x channel. Looked up, it is the formula's result to the last bit.
    mixed = (np.arange(256)[:, None] * (1 - alpha) + paint[:, None] * alpha).round().astype(np.uint8)
    tables = [np.ascontiguousarray(mixed[..., channel]).ravel() for channel in range(3)]
    blended = np.empty(image.shape, np.uint8)
    rows = max(1, BAND_PX // max(1, image.shape[1]))
    for top in range(0, len(image), rows):
        band = slice(top, top + rows)
        first = _known(labels[band], classes).astype(np.intp) * 256
        for channel, table in enumerate(tables):
            blended[band, :, channel] = table.take(first + image[band, :, channel])
    return blended


def _known(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Put the number of classes for what is none."""
    return np.where((labels >= 0) & (labels < len(classes)), labels, len(classes))


def heat(image: np.ndarray, values: np.ndarray, *, low: float, high: float, alpha: float = 0.6) -> np.ndarray:
    """Paint numbers over an image that is made grey.

    Args:
        image: H x W x 3 uint8.
        values: H x W.
        low: The number that is painted dark; what is below looks the same.
        high: The number that is painted bright, likewise.
        alpha: The share of the paint, 0..1.

    Returns:
        H x W x 3 uint8.
    """
    grey = image.mean(-1, keepdims=True)
    painted: np.ndarray = (grey * (1 - alpha) + _heat_colours(values, low, high) * alpha).round().astype(np.uint8)
    return painted


def _heat_colours(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the colours of numbers, 0..255."""
    import matplotlib as mpl

    level = np.clip((values - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)
    painted: np.ndarray = mpl.colormaps["inferno"](level)[..., :3] * 255
    return painted


def colour_bar(title: str, *, low: float, high: float, width: int) -> np.ndarray:
    """Draw what the colours of ``heat`` stand for, H x ``width`` x 3 uint8."""
    picture = Image.new("RGB", (width, 46), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((6, 4), title, fill="black")
    ramp = _heat_colours(np.linspace(low, high, width - 12), low, high).round().astype(np.uint8)
    picture.paste(Image.fromarray(ramp[None].repeat(12, 0)), (6, 18))
    pen.text((6, 31), f"{low:.3g}", fill="black")
    pen.text((width - 6, 31), f"{high:.3g}", fill="black", anchor="ra")
    return np.asarray(picture)


def errors(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Paint where a prediction is wrong: red wrong, white right, grey not scored.

    Args:
        truth: H x W; negative labels are not scored.
        guess: H x W.

    Returns:
        H x W x 3 uint8.

    >>> tuple(errors(np.array([[0, 1, -1]]), np.array([[0, 0, 0]]))[0, 1].tolist()) == ERROR_COLOURS["wrong"]
    True
    """
    painted = np.empty((*truth.shape, 3), np.uint8)
    painted[:] = ERROR_COLOURS["right"]
    painted[truth != guess] = ERROR_COLOURS["wrong"]
    painted[truth < 0] = ERROR_COLOURS["not scored"]
    return painted


def palette_image(labels: np.ndarray, classes: ClassSet, *, void: bool | None = None) -> Image.Image:
    """Make a palette picture whose pixel values are the mask values of the classes.

    Args:
        labels: H x W, 0..C-1; ``VOID`` becomes the value of ignored pixels.
        classes: Whose mask values and colours.
        void: Whether labels may be ``VOID``, where these are but some rows of them; default: whether they are.

    Returns:
        A picture of mode P; with mask values over 255 it is 16-bit grey: PNG palettes end at 256 colours.

    >>> palette_image(np.array([[1]]), ClassSet(("sky", "road"), values=(0, 7))).getpixel((0, 0))
    7
    """
    values = np.array([*classes.values, classes.ignore_index])
    void = bool((labels < 0).any()) if void is None else void
    if max(classes.values) > 255 or (classes.ignore_index > 255 and void):
        return Image.fromarray(values.astype(np.uint16)[labels])
    picture = Image.fromarray(values.astype(np.uint8)[labels], mode=None)  # VOID, -1, is the last
    table = np.zeros((256, 3), np.uint8)
    table[list(classes.values)] = classes.colours
    if classes.ignore_index < 256:
        table[classes.ignore_index] = UNSCORED
    picture.putpalette(table.tobytes())
    return picture


def legend(classes: ClassSet, *, width: int, row_px: int = 22) -> np.ndarray:
    """Draw colour swatches with class names, as many columns as fit in ``width``; H x ``width`` x 3 uint8."""
    columns = max(1, width // 130)
    rows = -(-len(classes) // columns)
    picture = Image.new("RGB", (width, rows * row_px + 6), "white")
    pen = ImageDraw.Draw(picture)
    for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True)):
        x, y = 6 + index % columns * (width // columns), 4 + index // columns * row_px
        pen.rectangle((x, y, x + 15, y + 15), fill=colour, outline="black")
        pen.text((x + 21, y + 2), name, fill="black")
    return np.asarray(picture)


def map_with_legend(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Paint H x W labels above their legend, as wide as the map or as its names need; H' x W' x 3 uint8."""
    return with_legend(colourise(labels, classes), classes)


def with_legend(picture: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Put the classes' names below an H x W x 3 picture, as wide as it or as they need; H' x W' x 3 uint8."""
    names = legend(classes, width=max(picture.shape[1], LEGEND_PX))
    margin = np.full((len(picture), names.shape[1] - picture.shape[1], 3), 255, np.uint8)
    return np.concatenate([np.concatenate([picture, margin], axis=1), names])
