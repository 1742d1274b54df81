"""What to do about layers that this package does not run: for each type the advice that fits it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_DATA = "its result depends on the values it sees: take the layer out, feed what comes before it and do this in Python"
_RECURRENT = "recurrent layers are not run here: a framework for sequences reads these weights, OpenCV's dnn for one"
_BOXES = "detection is not run here: cut the net before this layer, or run it with OpenCV's dnn module"
_CRF = (
    "end the net before it and refine its scores with fullyconv.crf.dense_crf, or train crf with a network of this "
    "package"
)
_CODE = (
    "it runs Python code of its own: take it out and do its work on the blobs before and after it; "
    "one that brings data is fed to the net"
)
_WEAK = "it trains with weak labels: for predictions take it out and connect what comes after it to its first bottom"
_AUGMENTS = "it augments pictures while training: take it out and connect its bottom, or feed augmented pictures"

ADVICE = {
    "Python": _CODE,
    "BatchReindex": _DATA,
    "Filter": _DATA,
    "RNN": _RECURRENT,
    "LSTM": _RECURRENT,
    "Recurrent": _RECURRENT,
    "MultiStageMeanfield": _CRF,
    "DenseCRF": _CRF,
    "ROIPooling": _BOXES,
    "PSROIPooling": _BOXES,
    "PriorBox": _BOXES,
    "DetectionOutput": _BOXES,
    "DetectionEvaluate": _BOXES,
    "MultiBoxLoss": _BOXES,
    "RegionLoss": _BOXES,
    **dict.fromkeys(("UniqueLabel", "BiasChannel", "AdaptiveBiasChannel"), _WEAK),
    **dict.fromkeys(("CreateDeformation", "ApplyDeformation", "ValueAugmentation", "ValueTransformation"), _AUGMENTS),
    "MatRead": "it reads a MATLAB file: feed its blob as an input of the net",
    "BatchReduction": "it is a layer of one fork: write it as Pooling, Reduction or Eltwise",
    "GlobalPooling": "write Pooling with global_pooling: true",
    "Padding": "write the pad into the layer that comes after it",
    "SyncBN": "write BN, which computes the same in one process",
    "BatchNormScale": "write BatchNorm and Scale",
}


def advice(kind: str, known: Collection[str]) -> str:
    """Say what to do about a layer type that is not supported, among those that are ``known``.

    >>> advice("GlobalPooling", ["Pooling"])
    'write Pooling with global_pooling: true'
    >>> advice("Poling", ["Pooling", "ReLU"])
    'did you mean Pooling?'
    """
    if kind in ADVICE:
        return ADVICE[kind]
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(kind.lower(), folded, n=1, cutoff=0.8)
    if near:
        return f"did you mean {folded[near[0]]}?"
    return (
        "it is no layer of Caffe's own nor of the segmenters known here: write it with others, or cut the net before "
        f"it; supported are {', '.join(known)}"
    )
