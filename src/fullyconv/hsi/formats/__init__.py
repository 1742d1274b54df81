"""Hyperspectral scenes and label maps: files to ``Scene`` and back."""
