"""Models over HTTP, and a page to try them on: pictures in, masks, overlays, polygons or probabilities out."""

from fullyconv.serve.app import make_app
from fullyconv.serve.settings import Settings

__all__ = ["Settings", "make_app"]
