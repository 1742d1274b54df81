"""A run as one self-contained page: scores, curves, confusions, best and worst pictures. No network needed."""

from fullyconv.report.figures import embed, plot_confusion, plot_curves, save_figure
from fullyconv.report.page import FILE_NAME, Key, class_keys, class_rows, picture, write_page
from fullyconv.report.run import write_report

__all__ = [
    "FILE_NAME", "Key", "class_keys", "class_rows", "embed", "picture", "plot_confusion", "plot_curves", "save_figure",
    "write_page", "write_report",
]  # fmt: skip
