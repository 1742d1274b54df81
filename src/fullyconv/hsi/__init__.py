"""Hyperspectral images (HSI): scenes, their files, splits, training, prediction and comparison."""
