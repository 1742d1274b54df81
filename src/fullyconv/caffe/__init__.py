"""Caffe's files in and out."""

from __future__ import annotations

from fullyconv.caffe.convert import import_model
from fullyconv.caffe.export import export
from fullyconv.caffe.loading import load
from fullyconv.caffe.net import Net

__all__ = ["Net", "export", "import_model", "load"]
