"""DICOM: the stored values of a picture on the scale that the file gives them, by pydicom (extra ``dicom``)."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fullyconv.data.raster import CHOOSE_PAGES, Kind, Raster, Refused
from fullyconv.limits import Limits

MAGIC, MAGIC_AT = b"DICM", 128
KINDS: dict[str, Kind] = {"MONOCHROME1": "grey", "MONOCHROME2": "grey", "PALETTE COLOR": "rgb", "RGB": "rgb"}
DEFLATED = "1.2.840.10008.1.2.1.99"  # unpacked as a whole, whatever it unpacks to
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.81")
PLAIN = "save it uncompressed (gdcmconv --raw a.dcm b.dcm)"


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM files do."""
    with path.open("rb") as file:
        return file.read(MAGIC_AT + len(MAGIC)).startswith(MAGIC, MAGIC_AT)


def read_dicom(path: Path, pages: int | Literal["channels"] | None, limits: Limits) -> Raster:
    """Read the picture of a DICOM file, on the scale that ``RescaleSlope`` and ``-Intercept`` give (CT: Hounsfield).

    Args:
        path: The file.
        pages: Of several frames, the one to read, from 0, or ``channels``: all, one after the other.
        limits: What it may ask for.

    Raises:
        Refused: Without pydicom, and for what is no picture, is compressed otherwise, or is beyond the limits.
        Exception: Of any kind that pydicom raises for broken files.
    """
    if find_spec("pydicom") is None:
        raise Refused("a DICOM file", "pip install 'fullyconv[dicom]', or save it as TIFF")
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities of writers
        if str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", "")) == DEFLATED:
            raise Refused("a deflated DICOM file", PLAIN)
        document = pydicom.dcmread(path)
        kind, frames = _checked(document, limits)
        if frames > 1 and pages is None:
            fix = CHOOSE_PAGES
            raise Refused(f"{frames} frames in one file", fix)
        if isinstance(pages, int) and pages >= frames:
            raise Refused(f"no frame {pages} in it: {frames}, counted from 0", "choose another")
        values = _values(document, pages if isinstance(pages, int) else None)
    if values.ndim == 4 or (values.ndim == 3 and kind == "grey"):  # frames first
        stacked = np.moveaxis(values if values.ndim == 4 else values[..., None], 0, 2)
        values, kind = stacked.reshape(*stacked.shape[:2], -1), "bands" if frames > 1 else kind
    values = (values[..., None] if values.ndim == 2 else values).astype(values.dtype.newbyteorder("="), copy=False)
    unsigned = values.dtype.kind == "u"
    return Raster(
        np.ascontiguousarray(values),
        kind,
        bits=int(document.BitsStored) if unsigned and kind != "rgb" else 8 * values.dtype.itemsize,
        inverted=document.PhotometricInterpretation == "MONOCHROME1",
        lossy="JPEG" if str(document.file_meta.TransferSyntaxUID) in LOSSY else "",
    )


def _checked(document: Any, limits: Limits) -> tuple[Kind, int]:
    """Return what a file holds, and how many frames; raises ``Refused`` for what is no picture or would not fit."""
    if "PixelData" not in document or "PhotometricInterpretation" not in document:
        raise Refused(f"a DICOM file without pixels ({document.get('Modality', 'of no modality')})", "leave it out")
    colours = str(document.PhotometricInterpretation)
    kind = "rgb" if colours.startswith("YBR") else KINDS.get(colours)
    if kind is None:
        raise Refused(f"colours of kind {colours}", "save it as grey or RGB")
    frames = int(document.get("NumberOfFrames", 1) or 1)
    pixels = int(document.Rows) * int(document.Columns)
    if pixels * frames > limits.pixels:
        size = f"{document.Columns} x {document.Rows} pixels"
        raise Refused(size if frames == 1 else f"{frames} frames of {size}", limits.remedy("pixels"))
    return kind, frames


def _values(document: Any, frame: int | None) -> np.ndarray:
    """Decode frames, colours as RGB, grey on the scale that the file gives it: whole numbers where that is whole."""
    from pydicom import pixels

    try:
        values: np.ndarray = pixels.pixel_array(document, index=frame)  # type: ignore[attr-defined]
    except (NotImplementedError, RuntimeError) as error:
        syntax = getattr(document.file_meta.TransferSyntaxUID, "name", "unknown")
        raise Refused(f"compression {syntax} ({' '.join(str(error).split())[:120]})", PLAIN) from None
    if document.PhotometricInterpretation == "PALETTE COLOR":
        painted: np.ndarray = pixels.apply_color_lut(values, document)  # type: ignore[attr-defined]
        return (painted >> 8).astype(np.uint8) if painted.dtype == np.uint16 else painted
    if values.ndim > 2 and document.SamplesPerPixel > 1:
        return values
    scaled: np.ndarray = pixels.apply_modality_lut(values, document)  # type: ignore[attr-defined]
    if scaled.dtype.kind == "f" and scaled.size and (scaled == np.rint(scaled)).all() and np.abs(scaled).max() < 2**31:
        return values if np.array_equal(scaled, values) else scaled.astype(np.int32)
    return scaled.astype(np.float32) if scaled.dtype.kind == "f" else scaled
