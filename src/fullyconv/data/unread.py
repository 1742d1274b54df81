"""Files that are no pictures we read: what they are, told by how they begin, and what to do about them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

HEAD = 1 << 12  # bytes from which files are told apart
UNREAD = (
    ".heic", ".heif", ".jxl", ".nii", ".mha", ".mhd", ".nrrd", ".pgm", ".ppm", ".pbm", ".tga", ".exr", ".psd", ".svg",
    ".pdf", ".czi", ".nd2", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".h5", ".hdf5",
)  # fmt: skip
"""What pictures come in that is not read, by name: folders of them are passed over, but not in silence."""
SLICES = "save the slices to label as PNG or TIFF"
NIFTI = "a NIfTI volume", f"{SLICES}, with nibabel: nibabel.load(FILE).dataobj[:, :, 0] is one"
UNPACK = "unpack it, and name what is in it"
META = "a MetaImage volume", f"{SLICES}, with SimpleITK"
ARCHIVE = "an archive", UNPACK
COMPRESSED = "a compressed file", UNPACK
DRAWN = "save it as PNG, in the size that it is to be labelled in"
FLAT = "save it as PNG or TIFF, flattened"
FLOATS = "save it as TIFF of floating point, from 0 to 1"
PAGE = "a web page, not a picture", "download the file itself"
RAW = "a camera's raw file", "develop it, and save it as TIFF, PNG or JPEG"
FILM = "a film, not a picture", "fullyconv predict labels films that are called .mp4, .mov, .mkv, .avi or .webm"
PHOTO = "save it as JPEG or PNG"
JPEG_XL = "a JPEG XL picture", f"{PHOTO} (djxl FILE.jxl FILE.png)"
SCENES = (".mat", ".hdr", ".npy", ".npz")  # what hyperspectral scenes come in, beside TIFF
SCENE = "a scene's file, not a picture", "this labels pictures, not scenes: those take recipe hsi"
ANALYZE, NIFTI1, NIFTI2 = 348, slice(344, 347), slice(4, 7)
BOXES = {  # of ISO files (ISO/IEC 14496-12), by the brand behind "ftyp"
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        ("a HEIC photo", f"{PHOTO} (heif-convert FILE.heic FILE.png)"),
    ),
    **dict.fromkeys((b"avif", b"avis"), ("an AVIF picture of a form that is not read", PHOTO)),
    b"crx ": RAW,
}
BEGINNINGS: tuple[tuple[bytes, tuple[str, str]], ...] = (
    (b"NRRD", ("an NRRD volume", f"{SLICES}, with pynrrd or SimpleITK")),
    (b"ObjectType", META),
    (b"NDims", META),
    (b"%PDF", ("a PDF document", "save its pages as PNG (pdftoppm -png FILE.pdf page)")),
    (b"%!PS", ("a PostScript drawing", DRAWN)),
    (b"\x89HDF\r\n\x1a\n", ("an HDF5 file", "save its pictures as PNG or TIFF; MATLAB's 7.3 is called .mat")),
    (b"\x93NUMPY", ("an array of NumPy's", "save it as PNG or TIFF; scenes take recipe hsi")),
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (b"8BPS", ("a Photoshop document", FLAT)),
    (b"gimp xcf", ("a GIMP document", FLAT)),
    (b"\x76\x2f\x31\x01", ("an OpenEXR picture", FLOATS)),
    (b"#?RADIANCE", ("a Radiance HDR picture", FLOATS)),
    (b"\0\0\1\0", ("an icon", "save it as PNG")),
    (b"DDS ", ("a DDS texture", "save it as PNG")),
    (b"ZISRAWFILE", ("a CZI slide of Zeiss's", "save the pictures to label as OME-TIFF or PNG, with QuPath")),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"\x1aE\xdf\xa3", FILM),
    (b"\0\0\1\xba", FILM),
    (b"version https://git-lfs", ("a pointer of Git LFS's, not the picture", "fetch the pictures: git lfs pull")),
    (b"\xd0\xcf\x11\xe0", ("a document of Microsoft's older formats", "save its pictures as PNG or TIFF")),
    (b"Rar!", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"BZh", COMPRESSED),
    (b"\xfd7zXZ\0", COMPRESSED),
    (b"\x28\xb5\x2f\xfd", COMPRESSED),
)
MARKS = {
    b"<svg": ("an SVG drawing", DRAWN),
    b"<!doctype html": PAGE,
    b"<html": PAGE,
}
Told = tuple[str, str] | None
NETPBM = tuple(b"P%d" % number for number in range(1, 8))
STORE = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def tell_kind(path: Path, head: bytes) -> Told:
    """Return what a file is that is known but not read, and what to do about it; ``None`` for any other.

    Args:
        path: The file.
        head: Its first ``HEAD`` bytes, or all.

    >>> tell_kind(Path("a.pdf"), b"%PDF-1.4")
    ('a PDF document', 'save its pages as PNG (pdftoppm -png FILE.pdf page)')
    """
    tellers = (_empty, _volume, _scene, _begins, _boxed, _drawn, _packed)
    return next((found for tell in tellers if (found := tell(path, head)) is not None), None)


def _empty(_: Path, head: bytes) -> Told:
    return None if head else ("an empty file, not a picture", "copy or download it again")


def _begins(_: Path, head: bytes) -> Told:
    if head[:2] in NETPBM and head[2:3].isspace():
        return "a Netpbm picture (PBM, PGM, PPM)", "save it as PNG"
    return next((told for magic, told in BEGINNINGS if head.startswith(magic)), None)


def _volume(_: Path, head: bytes) -> Told:
    """Tell NIfTI and Analyze by the size of their header, in either byte order."""
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if head[NIFTI1] in (b"n+1", b"ni1") or head[NIFTI2] in (b"n+2", b"ni2"):
        return NIFTI
    return ("an Analyze volume", f"{SLICES}, with nibabel") if ANALYZE in sizes and len(head) >= ANALYZE else None


def _scene(path: Path, _: bytes) -> Told:
    return SCENE if path.suffix.lower() in SCENES else None


def _boxed(_: Path, head: bytes) -> Told:
    return BOXES.get(head[8:12], FILM) if head[4:8] == b"ftyp" else None


def _drawn(_: Path, head: bytes) -> Told:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((told for mark, told in MARKS.items() if text.startswith(b"<") and mark in text), None)


def _packed(path: Path, head: bytes) -> Told:
    """Look into an archive, or at the beginning of what is packed by gzip."""
    if head.startswith(b"PK\3\4"):
        try:
            with zipfile.ZipFile(path) as archive:
                stored = any(name.rpartition("/")[2] in STORE for name in archive.namelist())
        except (OSError, ValueError, zipfile.BadZipFile):
            stored = False
        return ("a Zarr store in a zip file", "unpack it, and name the folder") if stored else ARCHIVE
    if not head.startswith(b"\x1f\x8b"):
        return None
    try:
        inside = zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error:
        inside = b""
    return _volume(path, inside) or COMPRESSED
