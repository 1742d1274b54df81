"""What a type checker must know of the installed package: see ``make smoke``."""

from typing import assert_type

import fullyconv

network = fullyconv.build("fcn8s-resnet18", 2)
assert_type(network, fullyconv.FCN)
assert_type(fullyconv.convolutionize(network), fullyconv.FullyConvolutional)
assert_type(fullyconv.ClassSet(("a",)).names, tuple[str, ...])
assert_type(fullyconv.crf.CRFParameters().iterations, int)
