"""Tiny data sets in exactly the published layouts, every class in every picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from fullyconv import facts
from fullyconv.data.context import RENAMED
from fullyconv.types import palette_colour

SIZE = (24, 40)  # height, width: not square, so that a transposed mask is noticed


def labels(count: int, *, first: int = 0, seed: int = 0) -> np.ndarray:
    """Give H x W labels that hold each of first .. first + count - 1, in another order for every seed."""
    rng = np.random.default_rng(seed)
    tiles = rng.permutation(np.arange(SIZE[0] * SIZE[1]) % count) + first
    return tiles.reshape(SIZE)


def write_picture(path: Path, *, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng((seed, *path.stem.encode())).integers(0, 256, (*SIZE, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_list(path: Path, *stems: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


def write_mat(path: Path, contents: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, contents, do_compression=True)


def voc(folder: Path, *, year: int = 2011, train: int = 2, val: int = 3) -> Path:
    """VOCdevkit/VOC20xx with palette masks, an outline of void, and a test list without masks."""
    root = folder / "VOCdevkit" / f"VOC{year}"
    train_ids = [f"2007_{index:06d}" for index in range(train)]
    val_ids = [f"2008_{index:06d}" for index in range(val)]
    palette = [part for index in range(256) for part in palette_colour(index)]
    (root / "SegmentationClass").mkdir(parents=True)
    for seed, stem in enumerate([*train_ids, *val_ids]):
        write_picture(root / "JPEGImages" / f"{stem}.jpg", seed=seed)
        values = labels(21, seed=seed)
        values[0] = 255
        mask = Image.fromarray(values.astype(np.uint8))
        mask.putpalette(palette)
        mask.save(root / "SegmentationClass" / f"{stem}.png")
    lists = root / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", *train_ids)
    write_list(lists / "val.txt", *val_ids)
    write_list(lists / "trainval.txt", *train_ids, *val_ids)
    write_list(lists / "test.txt", "2008_900000", "2008_900001")
    return root


def sbdd(folder: Path, stems: tuple[str, ...] = ("2007_000000", "2008_000001"), *, val: str = "2009_000000") -> Path:
    """benchmark_RELEASE/dataset with GTcls structs as the published files have them."""
    root = folder / "benchmark_RELEASE" / "dataset"
    for seed, stem in enumerate((*stems, val)):
        write_picture(root / "img" / f"{stem}.jpg", seed=50 + seed)
        boundaries = np.empty((20, 1), object)
        for index in range(20):
            boundaries[index, 0] = scipy.sparse.csc_matrix(np.eye(*SIZE, dtype=bool))
        struct = {
            "Boundaries": boundaries,
            "Segmentation": labels(21, seed=50 + seed).astype(np.uint8),
            "CategoriesPresent": np.arange(1, 21, dtype=np.uint8)[:, None],
        }
        write_mat(root / "cls" / f"{stem}.mat", {"GTcls": struct})
    write_list(root / "train.txt", *stems)
    write_list(root / "val.txt", val)
    return root


CONTEXT_LABELS = 459


def context_names() -> dict[int, str]:
    """Give the raw label of each of 459 names; the task's are scattered, with the spellings of the data set."""
    wanted = [RENAMED.get(name, name) for name in facts.CONTEXT.classes.names[1:]]
    numbers = np.random.default_rng(59).permutation(np.arange(1, CONTEXT_LABELS + 1))
    others = [f"other {index}" for index in range(CONTEXT_LABELS - len(wanted))]
    return dict(sorted(zip(numbers.tolist(), [*wanted, *others], strict=True)))


def context(folder: Path) -> Path:
    """PASCAL-Context's trainval/*.mat and labels.txt beside VOC2010's pictures and lists."""
    root, pictures = folder / "pascal-context", folder / "VOCdevkit" / "VOC2010"
    by_number = context_names()
    root.mkdir(parents=True)
    (root / "labels.txt").write_text("".join(f"{number}: {name}\n" for number, name in by_number.items()))
    for seed, stem in enumerate(("2008_000002", "2008_000003")):
        write_picture(pictures / "JPEGImages" / f"{stem}.jpg", seed=seed)
        raw = labels(CONTEXT_LABELS + 1, seed=seed)
        write_mat(root / "trainval" / f"{stem}.mat", {"LabelMap": raw.astype(np.uint16)})
    write_list(pictures / "ImageSets" / "Main" / "train.txt", "2008_000002")
    write_list(pictures / "ImageSets" / "Main" / "val.txt", "2008_000003")
    return root


def siftflow(folder: Path) -> Path:
    """SiftFlowDataset with both kinds of labels, TestSet1.txt, and the two pictures nobody labelled."""
    root, inner = folder / "SiftFlowDataset", "spatial_envelope_256x256_static_8outdoorcategories"
    stems = ["coast_a", "forest_b", "street_c", "highway_bost181", "street_urb506"]
    absent = [facts.SIFTFLOW_SEMANTIC.classes.names.index(name) + 1 for name in ("cow", "desert", "moon")]
    for seed, stem in enumerate(stems):
        write_picture(root / "Images" / inner / f"{stem}.jpg", seed=seed)
        unlabelled = stem in stems[3:]
        semantic = labels(34, seed=seed) * (not unlabelled)
        if stem == "street_c":
            semantic[np.isin(semantic, absent)] = 0
        geometric = labels(5, first=-1, seed=seed) if not unlabelled else np.full(SIZE, -1)
        write_mat(root / "SemanticLabels" / inner / f"{stem}.mat", {"S": semantic.astype(float), "names": stems})
        write_mat(root / "GeoLabels" / inner / f"{stem}.mat", {"S": geometric.astype(np.int16), "names": stems})
    write_list(root / "TestSet1.txt", f"{inner}\\street_c.jpg")
    return root


def nyud(folder: Path) -> Path:
    """NYUDv2 with colour, depth and HHA pictures and lists of ids."""
    root = folder / "nyud"
    for seed, (split, number) in enumerate((("train", 5003), ("val", 5011), ("test", 5001))):
        stem = f"img_{number}"
        for kind in ("images", "hha"):
            write_picture(root / "data" / kind / f"{stem}.png", seed=seed + (kind == "hha"))
        depth = np.linspace(900, 4000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
        (root / "data" / "depth").mkdir(exist_ok=True)
        Image.fromarray(depth).save(root / "data" / "depth" / f"{stem}.png")
        write_mat(root / "segmentation" / f"{stem}.mat", {"segmentation": labels(41, seed=seed).astype(np.uint16)})
        write_list(root / f"{split}.txt", str(number))
    return root


def nyud_archive(folder: Path) -> Path:
    """NYUDv2 as its archive unpacks: labels of 894 kinds in cells of structs, and the class of each kind."""
    root = folder / "nyud"
    data = root / "data"
    classes = np.arange(894) * 7 % 41
    write_mat(data / "benchmarkData" / "metadata" / "classMapping40.mat", {"mapClass": classes.astype(float)})
    for seed, number in enumerate((5003, 5011, 5001)):
        write_picture(data / "colorImage" / f"img_{number}.png", seed=seed)
        truth = np.empty((1, 1), object)
        segments = labels(894, seed=seed).astype(np.uint16)
        truth[0, 0] = {"Segmentation": segments, "SegmentationClass": segments + 1}
        write_mat(data / "benchmarkData" / "groundTruth" / f"img_{number}.mat", {"groundTruth": truth})
    splits = {"train": [[5003.0]], "val": [[5011.0]], "trainval": [[5003.0], [5011.0]], "test": [[5001.0]]}
    write_mat(data / "benchmarkData" / "metadata" / "nyusplits.mat", splits)
    return root
