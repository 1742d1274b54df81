"""Plots of scenes (matplotlib)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fullyconv.hsi.labels import class_set
from fullyconv.hsi.pictures import class_spectra
from fullyconv.hsi.scene import Scene


def plot_spectra(scene: Scene) -> Figure:
    """Plot each class's mean spectrum, shaded by one deviation, against wavelength or band; bad bands are gaps."""
    mean, std = class_spectra(scene)
    classes = scene.classes or class_set(len(mean))
    x = np.array(scene.wavelengths or range(scene.cube.shape[2]), np.float64)
    mean[:, list(scene.bad_bands)] = np.nan
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, colour in enumerate(classes.colours):
        shade = tuple(part / 255 for part in colour)
        axes.plot(x, mean[index], color=shade, linewidth=1.4)
        axes.fill_between(x, mean[index] - std[index], mean[index] + std[index], color=shade, alpha=0.15, linewidth=0)
    axes.set(
        xlabel="wavelength, nm" if scene.wavelengths else "band", ylabel="value", xlim=(x[0], max(x[-1], x[0] + 1))
    )
    axes.grid(alpha=0.3)
    # Names are given to the legend as they are: labels of lines may not begin with "_", and "$" would start a formula.
    key = figure.legend(axes.lines, classes.names, loc="outside right upper", frameon=False, fontsize="small")
    for text in key.get_texts():
        text.set_parse_math(False)
    return figure
