"""A network as one file for other programs: ONNX, OpenVINO, ``torch.export``; every height and width, checked."""

from fullyconv.export.graph import Inside
from fullyconv.export.writing import FORMATS, Agreement, Exported, Source, export, model_name

__all__ = ["FORMATS", "Agreement", "Exported", "Inside", "Source", "export", "model_name"]
