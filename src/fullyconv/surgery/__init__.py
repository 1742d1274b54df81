"""Changes to trained networks: another form of a layer, weights from elsewhere, fewer of them."""

from __future__ import annotations

from fullyconv.surgery.factorise import Compression, GlobalAverageHead, compress, factor_like, truncate_svd
from fullyconv.surgery.layers import conv_to_linear, conv_to_matrix, expand_inputs, linear_to_conv, replace_layer
from fullyconv.surgery.weights import Transplant, merge_streams, transplant

__all__ = [
    "Compression",
    "GlobalAverageHead",
    "Transplant",
    "compress",
    "conv_to_linear",
    "conv_to_matrix",
    "expand_inputs",
    "factor_like",
    "linear_to_conv",
    "merge_streams",
    "replace_layer",
    "transplant",
    "truncate_svd",
]
