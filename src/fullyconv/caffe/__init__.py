"""Caffe's files in and out."""

from __future__ import annotations

from fullyconv.caffe.net import Net, load

__all__ = ["Net", "load"]
