"""Files opened by GDAL (rasterio): with the driver that is named, no other, and without the files beside them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fullyconv.hsi.formats.contents import needs
from fullyconv.hsi.scene import Georeference

Driver = Literal["ENVI", "GTiff"]

CAREFUL = {
    "GDAL_PAM_ENABLED": "NO",  # an .aux.xml may say anything of its neighbour
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # masks and overviews in other files would open with any driver
    "PROJ_NETWORK": "OFF",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",
}
"""GDAL's options for files from strangers: contents that name a server (WMS, WCS, VRT) must reach none."""


@contextmanager
def quiet() -> Iterator[None]:
    """Read and write scenes without a georeference in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(path: Path, driver: Driver, *, page: int | None = None) -> Iterator[Any]:
    """Open a raster for reading.

    Args:
        path: The file.
        driver: The only format that it may have.
        page: Of a TIFF file of several images, which one, from 1.

    Raises:
        rasterio.errors.RasterioError: If it is not of that format, or damaged.

    """
    rasterio = needs("rasterio", to=f"read {'GeoTIFF' if driver == 'GTiff' else driver} files")
    # An absolute path holds no scheme that rasterio would take for an archive or a server.
    name = str(path.resolve()) if page is None else f"GTIFF_DIR:{page}:{path.resolve()}"
    # ENVI's driver needs the header beside the data; it looks for it by name.
    options = CAREFUL | ({"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"} if driver == "ENVI" else {})
    with quiet(), rasterio.Env(**options), rasterio.open(name, driver=driver, sharing=False) as raster:
        yield raster


def georeference_of(path: Path, driver: Driver) -> Georeference | None:
    """Read where a raster lies; none if it does not say, or nothing here can tell."""
    try:
        with opened(path, driver) as raster:
            return georeference(raster)
    except Exception:  # GDAL's errors are of many kinds; without rasterio there is no place either
        return None


def georeference(raster: Any) -> Georeference | None:
    """Return where an opened raster lies, if it says."""
    if raster.crs is None or raster.transform.is_identity:
        return None
    a, b, c, d, e, f = raster.transform[:6]
    return Georeference(raster.crs.to_wkt(), (a, b, c, d, e, f))
