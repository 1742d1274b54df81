"""Regions of one class as polygons on the edges of pixels: traced, simplified, measured, in the formats of others."""

from fullyconv.regions.tracing import Polygon, simplify, trace

__all__ = ["Polygon", "simplify", "trace"]
