"""What other tools call the keys of a recipe."""

from __future__ import annotations

ELSEWHERE = {
    "lr": "learning_rate", "lr0": "learning_rate", "base_lr": "learning_rate", "batch_size": "batch",
    "iter_size": "accumulate", "gradient_accumulation": "accumulate", "max_epochs": "epochs", "num_epochs": "epochs",
    "imgsz": "crop", "img_size": "crop", "image_size": "crop", "input_size": "crop", "crop_size": "crop",
    "size": "crop", "optim": "optimizer", "optimiser": "optimizer", "decay": "weight_decay", "wd": "weight_decay",
    "scheduler": "schedule", "lr_scheduler": "schedule", "lr_policy": "schedule", "warmup_epochs": "warmup",
    "class_weights": "balance", "checkpoint": "start_from", "ema": "average", "grad_clip": "clip",
    "clip_grad": "clip", "max_norm": "clip", "gradient_clip_val": "clip", "backbone_lr": "trunk_rate",
    "init_from": "start_from", "finetune": "start_from", "freeze": "train_only", "backbone": "trunk",
    "encoder": "trunk", "arch": "network", "architecture": "network", "model": "network", "amp": "precision",
    "fp16": "precision", "half": "precision", "gpu": "device", "gpus": "it is an option, --devices", "cuda": "device",
    "num_workers": "workers", "color": "colour", "color_jitter": "colour", "jitter": "colour", "hflip": "flip",
    "horizontal_flip": "flip", "fliplr": "flip", "vflip": "upside_down", "vertical_flip": "upside_down",
    "flipud": "upside_down", "rotate": "rotation", "degrees": "rotation",
    "val_every": "validate_every", "val_interval": "validate_every",
    "gradient_checkpointing": "checkpointing", "cache": "cache_gib",
    "sync_bn": "sync_batchnorm", "syncbn": "sync_batchnorm", "devices": "it is an option, --devices",
    "num_gpus": "it is an option, --devices", "nproc_per_node": "it is an option, --devices",
    "random_seed": "seed", "manual_seed": "seed", "time": "minutes", "zoom": "scale", "random_scale": "scale",
    "early_stopping": "patience", "early_stopping_patience": "patience", "early_stop": "patience",
    "criterion": "loss", "loss_function": "loss", "ohem": "hardest", "bootstrap": "hardest",
    "dice": "add it by loss=cross-entropy+dice", "lovasz": "add it by loss=cross-entropy+lovasz",
    "num_classes": "the classes are those of the data set's classes.yaml",
    "nc": "the classes are those of the data set's classes.yaml",
    "names": "the classes are those of the data set's classes.yaml",
    "augment": "views are varied by 'scale', 'flip', 'colour', 'crop' and 'shift'",
    "augmentation": "views are varied by 'scale', 'flip', 'colour', 'crop' and 'shift'",
    "resume": "it is an option, --resume",
    "data": "it is an option, --data",
    "out": "it is an option, --out",
}  # fmt: skip
"""What other tools call our keys, or what stands for what has no key."""
