"""ENVI files: what GDAL opens is opened, with GDAL's numbers; else one sentence."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullyconv.files import BadFile
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.scene import Scene
from fullyconv.limits import LIMITS

TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
AXES = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def by_gdal(data: Path) -> tuple[np.ndarray, float | None]:
    with rasterio.open(data, driver="ENVI") as raster:
        return raster.read().transpose(1, 2, 0), raster.nodata


def header(shape: tuple[int, int, int] = (2, 5, 4), **fields: object) -> str:
    lines = {"samples": shape[1], "lines": shape[0], "bands": shape[2], "header offset": 0, "data type": 2,
             "interleave": "bsq", "byte order": 0}  # fmt: skip
    lines |= {key.replace("_", " "): value for key, value in fields.items()}
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


def write(folder: Path, text: str | bytes, data: bytes = np.arange(40, dtype="<i2").tobytes()) -> Path:
    (folder / "s.img").write_bytes(data)
    (folder / "s.hdr").write_bytes(text.encode("latin-1") if isinstance(text, str) else text)
    return folder / "s.hdr"


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Any type, interleave, byte order and offset, in any of the spellings that headers have."""
    number, kind = draw(st.sampled_from(list(TYPES.items())))
    interleave = draw(st.sampled_from(list(AXES)))
    order = draw(st.sampled_from([0, 1, None]))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(1, 4)))
    offset = draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    raw = rng.integers(0, 256, int(np.prod(shape)) * np.dtype(kind).itemsize, np.uint8).tobytes()
    spell = draw(st.sampled_from([str.lower, str.upper, str.title]))
    fields = {"samples": shape[1], "lines": shape[0], "bands": shape[2], "data type": number,
              "interleave": spell(interleave)}  # fmt: skip
    if offset or draw(st.booleans()):
        fields["header offset"] = offset
    if order is not None:
        fields["byte order"] = order
    extra = draw(st.sampled_from(["", "wavelength = {}\n", "description = {\n a = b,\n c}\n", "band names = {ä, é,}\n",
                                  "; a comment\n", "\n\n", "sensor type = Unknown\n", "data ignore value = 7\n",
                                  "map info = {UTM, 1, 1, 5e5, 4.6e6, 30, 30, 32, North, WGS-84}\n"]))  # fmt: skip
    equals = draw(st.sampled_from([" = ", "=", " =  ", "\t= "]))
    names = draw(st.permutations(list(fields)))
    case = draw(st.sampled_from([str.lower, str.capitalize, str.title]))
    text = "ENVI\n" + extra + "".join(f"{case(name)}{equals}{fields[name]}\n" for name in names)
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"]))), bytes(offset) + raw


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=files())
def test_numbers_are_those_of_gdal(case: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    text, data = case
    path = write(tmp_path_factory.getbasetemp(), text, data)
    expected, ignored = by_gdal(path.with_suffix(".img"))
    for name in (path, path.with_suffix(".img")):
        found = SceneFiles(name).read()
        assert isinstance(found.cube, np.memmap)
        assert found.cube.dtype.newbyteorder("=") == expected.dtype
        np.testing.assert_array_equal(found.cube, expected)
        assert found.no_data == ignored


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wavelength = {0.45, 0.55,\n 0.65, 0.9}", (450, 550, 650, 900)),
        ("wavelength = {450, 550, 650, 900, }\nwavelength units = Nanometers", (450, 550, 650, 900)),
        ("wavelength =\n {450, 550, 650, 900}", (450, 550, 650, 900)),
        ("wavelength = {8, 50, 101, 120}\nwavelength units = Micrometer", (8e3, 5e4, 101e3, 12e4)),
        ("wavelength = {4500, 5500, 6500, 9000}\nwavelength units = Angstroms", (450, 550, 650, 900)),
        ("wavelength = {4500, 5500, 6500, 9000}\nWavelength Units = ANGSTROM", (450, 550, 650, 900)),
        ("wavelength = {4.5e-5, 5.5e-5, 6.5e-5, 9e-5}\nwavelength units = Centimeters", (450, 550, 650, 900)),
        ("wavelength = {.00045, .00055, .00065, .0009}\nwavelength units = mm", (450, 550, 650, 900)),
        ("wavelength = {4.5e-7, 5.5e-7, 6.5e-7, 9e-7}\nwavelength units = Metres", (450, 550, 650, 900)),
        ("wavelength = {22222.2222, 18181.8182, 15384.6154, 11111.1111}\nwavelength units = Wavenumber",
         (450, 550, 650, 900)),
        ("wavelength = {666205.462, 545077.196, 461219.166, 333102.731}\nwavelength units = GHz",
         (450, 550, 650, 900)),
        ("wavelength = {666205462, 545077196, 461219166, 333102731}\nwavelength units = MHz", (450, 550, 650, 900)),
        ("wavelength = {1, 2, 3, 4}\nwavelength units = Index", ()),
        ("wavelength = {1, 2, 3, 4}", ()),
        ("wavelength = {450, 550, 650, 900}\nwavelength units = Unknown", ()),
        ("wavelength = {450, 550, 650, 900}\nwavelength units = parsec", ()),
        ("wavelength = {0, 0, 0, 0}", ()),
        ("wavelength = {}", ()),
    ],
)  # fmt: skip
def test_wavelengths_are_nanometres_whatever_the_unit(text: str, expected: tuple[float, ...], tmp_path: Path) -> None:
    found = SceneFiles(write(tmp_path, header() + text + "\n")).open().wavelengths
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_names_in_old_code_pages_and_lists_over_lines_are_read(tmp_path: Path) -> None:
    text = header(file_type="ENVI Classification", data_type=1, bands=1, classes=3)
    text += "class names = {Unclassified,\n Wälder,\n Flüsse}\nbbl =\n{1}\n"
    path = write(tmp_path, text, bytes([0, 1, 2, 1, 0, 2, 2, 1, 1, 0]))
    labels, classes = SceneFiles(path).open_labels()
    assert classes.names == ("Wälder", "Flüsse")
    assert labels.tolist() == [[-1, 0, 1, 0, -1], [1, 1, 0, 0, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (header(samples=None), "no field 'samples'"),
        (header(lines="many"), "lines = 'many'"),
        (header(bands=0), "is empty"),
        (header(data_type=6), "data type 6: complex numbers"),
        (header(data_type=7), "data type 7: ENVI's types"),
        (header(interleave="tiled"), "interleave 'tiled': write bsq, bil or bip"),
        (header(byte_order=2), "byte order 2"),
        (header(file_compression=1), "file compression = 1: compressed"),
        (header(major_frame_offsets="{16, 0}"), "frames with bytes between them"),
        (header(file_type="ENVI Spectral Library"), "a spectral library"),
        (header(bbl="{1, 0}"), "bbl marks 2 bands, the image has 4"),
        (header(wavelength="{450, red, 650, 900}"), "wavelength: could not convert string to float: 'red'"),
        (header(wavelength="{450, -1, 650, 900}"), "a wavelength of -1"),
        (header(data_ignore_value="{0, 1}"), "2 data ignore values"),
        (header(lines=3), r"truncated: 80 bytes, but 3 x 5 x 4 of int16 from byte 0 need 120"),
        (header(header_offset=1), "truncated"),
        (header(lines=10**9, samples=10**9), "1000000000000000000 pixels: cut it, or raise FULLYCONV_MAX_PIXELS"),
        (header() + "wavelength = {1, 2\n", r"s\.hdr: wavelength = '\{1, 2': its list has no end: write '\}'"),
        (header(wavelength="{1, 2"), "wavelength = .* no end"),
        (header() + "bbl =\n{1, 1,\n 1, 1\n", "bbl = .* no end"),
        (header() + "bbl = {", "bbl = .* no end"),
        (header() + "band names = {a, b\nbbl = {1, 1, 0, 1}\n", "band names = .* no end"),
        (header() + "band names = {a,\n b\nbbl =\n {1, 1, 0, 1}\n", "band names = .* no end"),
        ("ENVI\ndescription = {a" + header()[4:], "description = .* no end"),
        (header() + "samples = 2\n", r"s\.hdr: samples = '5', and again samples = '2': keep the line that is right"),
        (header() + "SAMPLES=2\n", "samples = '5', and again samples = '2'"),
        (header() + "Data  Type = 12\n", "data type = '2', and again data type = '12'"),
        (header() + "data_type = 12\n", "data type = '2', and again data type = '12'"),
        (header() + "datatype = 12\n", "data type = '2', and again datatype = '12'"),
        (header(bbl="{1, 1, 0, 1}") + "bbl = {1, 1, 1, 1}\n", "bbl = '1, 1, 0, 1', and again bbl = '1, 1, 1, 1'"),
        ("IDL\n" + header(), "does not begin with 'ENVI'"),
        (b"\x00\x01\x02" * 50, "does not begin with 'ENVI'"),
    ],
)
def test_what_is_not_opened_is_said_in_one_sentence(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadFile, match=message):
        SceneFiles(path).open()


def test_a_field_given_again_with_the_same_value_is_one(tmp_path: Path) -> None:
    text = header(bbl="{1, 1, 0, 1}") + "Samples = 5\nbbl = {1,1,\n0,1}\ndescription = {\n a {b}\n = c}\n"
    assert SceneFiles(write(tmp_path, text)).open().bad_bands == (2,)


@pytest.mark.parametrize("name", ["data_type", "Data Type", "data  type", "data\ttype"])
def test_names_are_read_however_their_words_are_parted(name: str, tmp_path: Path) -> None:
    text = header(data_type=None) + f"{name} = 12\n"
    assert SceneFiles(write(tmp_path, text)).open().cube.dtype == np.uint16


def test_which_data_belong_to_a_header_is_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path, header())
    (tmp_path / "s.dat").write_bytes(b"other")
    with pytest.raises(BadFile, match=r"its data may be any of s\.img, s\.dat"):
        SceneFiles(path).open()
    assert SceneFiles(tmp_path / "s.img").open().cube.shape == (2, 5, 4)
    (tmp_path / "s.img").rename(tmp_path / "s.cube")
    (tmp_path / "s.dat").unlink()
    with pytest.raises(BadFile, match="no data beside it"):
        SceneFiles(path).open()
    assert SceneFiles(tmp_path / "s.cube").open().cube.shape == (2, 5, 4)


def test_a_header_is_no_longer_than_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, header())
    monkeypatch.setattr(LIMITS, "text_bytes", 50)
    with pytest.raises(BadFile, match="FULLYCONV_MAX_TEXT_BYTES"):
        SceneFiles(path).open()


@pytest.mark.parametrize("text", ["wavelength = {\n" + "1\n" * 500_000, "k\n" * 500_000])
def test_long_headers_take_time_as_they_are_long(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, header() + text + "bands = 2\n")
    start = time.process_time()
    with pytest.raises(BadFile, match=r"no end|bands = '4', and again"):
        SceneFiles(path).open()
    assert time.process_time() - start < 10  # a minute or more, if each line costs what all others hold


def test_data_that_name_a_server_are_numbers(tmp_path: Path) -> None:
    request = b"<GDAL_WMS><Service name='WMS'><ServerUrl>http://127.0.0.1:9/x</ServerUrl></Service></GDAL_WMS>"
    text = header((1, len(request), 1), data_type=1, map_info="{UTM, 1, 1, 5e5, 4.6e6, 30, 30, 32, North, WGS-84}")
    found = SceneFiles(write(tmp_path, text, request)).open()
    assert bytes(found.cube.ravel()) == request
    assert found.georeference is not None


def test_a_written_header_is_read_by_others(tmp_path: Path) -> None:
    spectral = pytest.importorskip("spectral.io.envi")
    from fullyconv.hsi.formats.by_suffix import save_scene

    cube = np.arange(40, dtype=np.int16).reshape(2, 5, 4)
    save_scene(Scene(cube, wavelengths=(450.5, 550, 650, 900), bad_bands=(2,), no_data=-7.0), tmp_path / "x.hdr")
    expected, ignored = by_gdal(tmp_path / "x.img")
    np.testing.assert_array_equal(expected, cube)
    assert ignored == -7
    image = spectral.open(str(tmp_path / "x.hdr"))
    np.testing.assert_array_equal(image.open_memmap(), cube)
    assert image.bands.centers == [450.5, 550, 650, 900]
    assert image.metadata["bbl"] == [1, 1, 0, 1]
