"""Outlines that annotation tools write, drawn into masks: COCO, LabelMe, YOLO, CVAT, Label Studio, Supervisely."""
