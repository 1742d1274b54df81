"""Outlines of annotation tools, drawn into masks: COCO, LabelMe, YOLO, CVAT, Label Studio, Supervisely, GeoJSON."""
