"""Files that are no pictures we read: each is named for what it is, with what to do, however it is called."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from fullyconv.data.folder import open_folder
from fullyconv.data.images import read_image
from fullyconv.files import BadFile
from fullyconv.predict.finding import find_images

NIFTI1 = (348).to_bytes(4, "little") + bytes(340) + b"n+1\0" + bytes(99)
NIFTI2 = (540).to_bytes(4, "big") + b"n+2\0\r\n\x1a\n" + bytes(600)


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "{}")
    return stream.getvalue()


KINDS = {
    "a.nii": (NIFTI1, "a NIfTI volume: save the slices to label as PNG or TIFF, with nibabel"),
    "b.nii": (NIFTI2, "a NIfTI volume"),
    "a.nii.gz": (gzip.compress(NIFTI1), "a NIfTI volume"),
    "pair.hdr": (NIFTI1.replace(b"n+1", b"ni1"), "a NIfTI volume"),
    "a.hdr": (b"ENVI\nsamples = 3", "a scene's file, not a picture"),
    "analyze.hdr": ((348).to_bytes(4, "big") + bytes(344), "an Analyze volume"),
    "a.mha": (b"ObjectType = Image\nNDims = 2", "a MetaImage volume: .* SimpleITK"),
    "a.nrrd": (b"NRRD0004\ntype: uint8\n", "an NRRD volume"),
    "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a HEIC photo: save it as JPEG or PNG"),
    "a.jxl": (b"\xff\x0a\x10", "a JPEG XL picture"),
    "a.svg": (b'<?xml version="1.0"?>\n<svg width="1"/>', "an SVG drawing: save it as PNG"),
    "a.pdf": (b"%PDF-1.4\n", "a PDF document: save its pages as PNG"),
    "a.ome.zarr.zip": (zipped("scan.zarr/zarr.json"), "a Zarr store in a zip file: unpack it, and name the folder"),
    "a.zip": (zipped("a.png"), "an archive: unpack it"),
    "cut.zip": (zipped("a.png")[:30], "an archive: unpack it"),
    "a.npz": (zipped("cube.npy"), "a scene's file, not a picture"),
    "a.gz": (gzip.compress(b"text"), "a compressed file"),
    "cut.gz": (b"\x1f\x8b\x08", "a compressed file"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
    "a.mp4": (b"\0\0\0\x18ftypisom", "a film, not a picture: fullyconv predict labels films"),
    "page.png": (b"\n<!DOCTYPE html><html>", "a web page, not a picture: download the file itself"),
    "lfs.png": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "empty.png": (b"", "an empty file, not a picture: copy or download it again"),
    "a.ppm": (b"P6\n2 2\n255\n" + bytes(12), "a Netpbm picture"),
    "other.png": (b"hello", "unreadable .not PNG, JPEG, TIFF, .*: save it anew as PNG"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    content, words = KINDS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadFile, match=words):
        read_image(tmp_path / name)


def test_folders_do_not_pass_them_over_in_silence(tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIC", "._c.heic"):
        (tmp_path / name).write_bytes(KINDS["a.heic"][0])
    with pytest.raises(BadFile, match=r"no image there, but \d \.\w+ files?: name files"):
        find_images([tmp_path])
    (tmp_path / "d.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"a\.heic: not read and 1 more file: \.heic is none of \.png, .*: save them"):
        assert len(find_images([tmp_path, tmp_path / "*"])) == 1


def test_a_data_set_of_them_says_what_they_are(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "case_1.nii.gz").write_bytes(KINDS["a.nii.gz"][0])
    with pytest.raises(
        BadFile, match=r"no image with a mask, but 2 \.gz files, and this is a NIfTI volume: save the sl"
    ):
        open_folder(tmp_path)
