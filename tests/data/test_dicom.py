"""DICOM files: the numbers that pydicom gives, on the file's own scale, or one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.data.check import check_folder
from fullyconv.data.dataset import read_picture
from fullyconv.data.folder import open_folder
from fullyconv.data.images import read_image, read_raster
from fullyconv.data.raster import Raster
from fullyconv.files import BadFile
from fullyconv.limits import Limits

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian  # noqa: E402

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
RNG = np.random.default_rng(0)


def write(path: Path, values: np.ndarray, photometric: str = "MONOCHROME2", **tags: object) -> np.ndarray:
    """Write frames, rows, columns and samples as they are."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, "1.2.3"
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    document = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    colours = photometric == "RGB"
    document.PhotometricInterpretation, document.SamplesPerPixel = photometric, 3 if colours else 1
    *frames, document.Rows, document.Columns = values.shape[:-1] if colours else values.shape
    document.BitsAllocated = document.BitsStored = 8 * values.dtype.itemsize
    document.HighBit, document.PixelRepresentation = document.BitsStored - 1, int(values.dtype.kind == "i")
    document.PixelData = values.tobytes()
    if colours:
        document.PlanarConfiguration = 0
    if frames:
        document.NumberOfFrames = frames[0]
    for name, value in tags.items():
        setattr(document, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    document.save_as(path, enforce_file_format=True)
    return values


def numbers_or_sentence(path: Path) -> Raster | str:
    try:
        return read_raster(path)
    except BadFile as bad:
        return str(bad)


def test_every_sample_of_pydicom_gives_its_numbers_or_one_sentence() -> None:
    read = 0
    for path in sorted(SAMPLES.glob("*.dcm")):
        found = numbers_or_sentence(path)
        if isinstance(found, str):
            assert "\n" not in found
            continue
        document = pydicom.dcmread(path)
        expected = document.pixel_array
        if "RescaleSlope" in document:
            expected = expected * float(document.RescaleSlope) + float(document.RescaleIntercept)
        if document.PhotometricInterpretation == "PALETTE COLOR":
            continue
        np.testing.assert_array_equal(found.values.squeeze(), expected.squeeze(), err_msg=path.name)
        read += 1
    assert read >= 25


def test_numbers_are_on_the_scale_of_the_file(tmp_path: Path) -> None:
    stored = write(
        tmp_path / "ct.dcm", RNG.integers(-100, 3000, (9, 11), np.int16), RescaleSlope=1, RescaleIntercept=-1024
    )
    found = read_raster(tmp_path / "ct.dcm").values
    assert found.dtype == np.int32
    assert np.array_equal(found[..., 0], stored - 1024)
    write(tmp_path / "pet.dcm", stored, RescaleSlope=0.5, RescaleIntercept=0.25)
    np.testing.assert_allclose(read_raster(tmp_path / "pet.dcm").values[..., 0], stored * 0.5 + 0.25)
    film = write(
        tmp_path / "x.dcm", RNG.integers(0, 4096, (9, 11)).astype(np.uint16), "MONOCHROME1", BitsStored=12, HighBit=11
    )
    raster = read_raster(tmp_path / "x.dcm")
    assert (raster.inverted, raster.bits) == (True, 12)
    expected = read_image_of(film)
    assert np.array_equal(read_image(tmp_path / "x.dcm")[..., 0], 255 - expected)
    colours = write(tmp_path / "c.dcm", RNG.integers(0, 256, (9, 11, 3), np.uint8), "RGB")
    assert np.array_equal(read_image(tmp_path / "c.dcm"), colours)


def read_image_of(grey: np.ndarray) -> np.ndarray:
    from fullyconv.data.raster import colours

    return colours(Raster(grey[..., None], "grey", 12))[..., 0]


def test_frames_are_pages(tmp_path: Path) -> None:
    frames = write(tmp_path / "a.dcm", RNG.integers(0, 256, (4, 9, 11), np.uint8))
    assert np.array_equal(read_raster(tmp_path / "a.dcm", 2).values[..., 0], frames[2])
    assert np.array_equal(read_raster(tmp_path / "a.dcm", "channels").values, np.moveaxis(frames, 0, 2))
    for pages, said in ((None, "4 frames in one file: choose one, pages=0"), (4, "no frame 4 in it")):
        with pytest.raises(BadFile, match=said):
            read_raster(tmp_path / "a.dcm", pages)


def test_what_is_no_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.dcm"
    write(path, np.zeros((9, 11), np.uint8))
    with pytest.raises(BadFile, match="11 x 9 pixels"):
        read_raster(path, limits=Limits(pixels=98))
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(BadFile, match="less than expected"):
        read_raster(path)
    document = pydicom.dcmread(SAMPLES / "image_dfl.dcm")
    assert document.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    with pytest.raises(BadFile, match="deflated"):  # pydicom would unpack it all
        read_raster(SAMPLES / "image_dfl.dcm")
    path.write_bytes(whole)
    monkeypatch.setattr("fullyconv.data.dicom.find_spec", lambda _: None)
    with pytest.raises(BadFile, match=r"pip install 'fullyconv\[dicom\]'"):
        read_raster(path)


def test_a_data_set_of_slices_is_read_by_one_range(tmp_path: Path) -> None:
    for name in "abc":
        write(
            tmp_path / "images" / f"{name}.dcm",
            RNG.integers(0, 2000, (20, 24), np.int16),
            RescaleSlope=1,
            RescaleIntercept=-1000,
        )
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.tri(20, 24, dtype=np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    report = check_folder(open_folder(tmp_path))
    assert report.problems == []
    assert report.levels is not None
    (low, high), *_ = report.levels.ranges
    assert -1001 < low < -990 < 990 < high < 1000
    assert read_picture(report.folder.splits["all"][0]).shape == (20, 24, 3)
