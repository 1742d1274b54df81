"""Hyperspectral scenes: files to ``Scene`` and back, normalisation, generated scenes."""
