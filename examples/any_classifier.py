"""A classifier of your own, fully convolutional: where it sees a class, and an FCN on its maps.

python examples/any_classifier.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import fullyconv
from fullyconv.data.synthetic import make_sample
from fullyconv.networks.inspection import inspect


class Small(nn.Module):
    """A classifier that was never meant for segmentation: 3 x 64 x 64 pictures, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Score N pictures, N x 10."""
        return self.head(self.body(image).flatten(1))


def main(folder: Path) -> None:
    """Convert, look inside, save and open again."""
    torch.manual_seed(0)
    classifier = Small().eval()
    sample = make_sample(seed=0, index=3)
    image = torch.from_numpy(fullyconv.Preprocess()(sample.image))[None]

    dense = fullyconv.convolutionize(classifier, example=(3, 64, 64))
    with torch.inference_mode():
        rows, columns = dense(image).shape[2:]
        window = image[..., :64, :64]
        difference = float((dense(window)[..., 0, 0] - classifier(window)).abs().max())
    print(f"{tuple(image.shape[2:])} pixels: {rows} x {columns} answers, one every {dense.rows.scale} px")
    print(f"the first window by itself differs by {difference:.1e}")

    name = "any_classifier:Small"  # how a saved model says what to build
    network = fullyconv.from_classifier(classifier, classes=6, stride=4, example=(3, 64, 64), origin=name)
    found = inspect(network, size=sample.labels.shape)
    print(f"FCN: {found.parameters:,} parameters, {found.multiply_adds / 1e6:.0f} million multiply-adds")
    for stage in network.plans[0].stages:
        print(f"  upsampled by {stage.factor} with a kernel of {stage.kernel}, cropped by {stage.offset}")

    fullyconv.save(network, folder / "model")
    # The saved model names a function of this file: whoever opens it says that it may be called.
    model = fullyconv.load(folder / "model", device="cpu", trust=name)
    assert model.predict(sample.image).labels.shape == sample.labels.shape
    print(f"saved and opened again: {folder / 'model'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place))
