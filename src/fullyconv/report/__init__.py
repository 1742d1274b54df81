"""A run as one self-contained page: scores, curves, confusions, best and worst pictures. No network needed."""

from fullyconv.report.data import write_data_report
from fullyconv.report.figures import plot_confusion, save_figure
from fullyconv.report.page import FILE_NAME, head_place
from fullyconv.report.run import write_report

__all__ = ["FILE_NAME", "head_place", "plot_confusion", "save_figure", "write_data_report", "write_report"]
