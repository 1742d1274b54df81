"""Every reader of files, the valid files to start from, and how to spoil them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pydicom
import scipy.io
import tifffile
import torch
from PIL import Image

from fullyconv import ClassSet, build, save
from fullyconv.caffe import export
from fullyconv.caffe import load as load_caffe
from fullyconv.caffe.wire import read_weights as read_caffemodel
from fullyconv.checkpoint import load_network, read_config
from fullyconv.data.archives import unpack
from fullyconv.data.classes import guess_classes, read_classes
from fullyconv.data.images import read_image
from fullyconv.data.masks import decode_mask, read_raw_mask
from fullyconv.data.mat import read_mat
from fullyconv.data.pairs import read_list
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import save_scene
from fullyconv.hsi.labels import class_set
from fullyconv.hsi.synthetic import make_scene
from fullyconv.hsi.trial import read_split
from fullyconv.outputs import Outputs
from fullyconv.recipes import find_chain, find_recipe, find_scene_recipe
from fullyconv.tensors import read_weights
from fullyconv.train.checkpoints import Checkpoints
from fullyconv.train.folder import read_metrics
from fullyconv.train.recipe import Recipe, change
from fullyconv.train.settings import parse_settings
from fullyconv.train.state import read_position
from fuzz import mutate
from fuzz.mutate import Mutation


@dataclass(frozen=True)
class Reader:
    """A reader: ``seeds`` are the names and contents of valid files, ``read`` takes a file of that name."""

    name: str
    seeds: Sequence[tuple[str, bytes]]
    mutations: Sequence[Mutation]
    read: Callable[[Path], object]
    share: int = 4  # of all inputs: what is read quickly, or breaks easily, is read more often

    def input(self, index: int) -> tuple[str, bytes]:
        """Return the name and content of an input; the same index gives the same."""
        random = Random(f"{self.name} {index}")
        name, content = random.choice(self.seeds)
        others = [other for _, other in self.seeds]
        for _ in range(random.choice((1, 1, 1, 2))):
            mutation = random.choice(self.mutations)
            try:
                content = mutation(random, content, others)
            except Exception:  # the file is too broken already for what knows its format
                content = mutate.of_bytes(random, content, others)
        return name, content


def readers(place: Path) -> dict[str, Reader]:
    """Make the valid files in a folder, and the readers."""
    torch.manual_seed(0)
    made = [*_caffe(place), *_models(place), *_texts(place), *_pictures(place), *_scenes(place), *_archives(place)]
    return {reader.name: reader for reader in made}


PROTOTXT = b"""name: "net"
input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "lrn" type: "LRN" bottom: "pool" top: "lrn" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layer { name: "drop" type: "Dropout" bottom: "lrn" top: "lrn" dropout_param { dropout_ratio: 0.5 } }
layer { name: "flat" type: "Flatten" bottom: "lrn" top: "flat" }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
PROTOTXT_FCN = b"""layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 20 dim: 24 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 6 kernel_h: 3 kernel_w: 3 pad: 1 group: 3 engine: CAFFE } }
layer { name: "p1" type: "Pooling" bottom: "c1" top: "p1" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "s" type: "Convolution" bottom: "p1" top: "s" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "up" type: "Deconvolution" bottom: "s" top: "up" param { lr_mult: 0 }
  convolution_param { num_output: 2 kernel_size: 4 stride: 2 bias_term: false weight_filler { type: "bilinear" } } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "crop" crop_param { axis: 2 offset: 1 } }
layer { name: "cat" type: "Concat" bottom: "crop" bottom: "data" top: "cat" concat_param { axis: 1 } }
layer { name: "slice" type: "Slice" bottom: "cat" top: "x" top: "y" slice_param { axis: 1 slice_point: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "crop" bottom: "x" top: "sum"
  eltwise_param { operation: SUM coeff: 1 coeff: 0.5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "y" top: "loss" include { phase: TRAIN }
  loss_param { ignore_label: 255 normalize: false } }
"""
PROTOTXT_OLD = b"""input: "data" input_dim: 1 input_dim: 1 input_dim: 9 input_dim: 9
layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" blobs_lr: 1 weight_decay: 0
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.01 }
    bias_filler { type: "constant" value: 1 } } }
layers { name: "power" type: POWER bottom: "ip" top: "power" power_param { power: 2 scale: 0.5 shift: 1 } }
"""


def _caffe(place: Path) -> list[Reader]:
    prototxt, _ = export(build("fcn4s-lenet", 2), place / "caffe")
    texts = [("net.prototxt", text) for text in (PROTOTXT, PROTOTXT_FCN, PROTOTXT_OLD, prototxt.read_bytes())]
    (place / "ip.prototxt").write_bytes(PROTOTXT)
    weights = _small_caffemodel(place)

    def read_both(path: Path) -> None:
        read_caffemodel(path)
        load_caffe(place / "ip.prototxt", path)

    return [
        Reader(
            "prototxt",
            texts,
            [mutate.of_text, mutate.of_text, mutate.of_bytes],
            load_caffe,
            share=8,
        ),
        Reader(
            "caffemodel", [("net.caffemodel", weights)], [mutate.of_wire, mutate.of_wire, mutate.of_bytes], read_both
        ),
    ]


def _small_caffemodel(place: Path) -> bytes:
    from fullyconv.caffe.wire import write_weights

    net = load_caffe(place / "ip.prototxt")
    blobs = {
        layer.name: (layer.kind, [values.detach().numpy() for _, values in net.blobs(layer)])
        for layer in net.described
        if net.blobs(layer)
    }
    write_weights(place / "small.caffemodel", "net", blobs)
    return (place / "small.caffemodel").read_bytes()


def _models(place: Path) -> list[Reader]:
    model = save(build("fcn4s-lenet", 2), place / "model", notes={"score": 0.5, "recipe": {"epochs": 3}})
    tensors = (
        save(build("fcn1s-spectral1", 2, channels=4), place / "tiny", compact=True) / "model.safetensors"
    ).read_bytes()
    spectral = json.loads((place / "tiny" / "config.json").read_text())
    spectral["preprocess"] = {
        "scene_bands": 6,
        "bands": [0, 2, 3, 5],
        "mean": [0.0] * 4,
        "std": [1.0] * 4,
        "components": [],
    }
    configs = [(model / "config.json").read_bytes(), json.dumps(spectral).encode()]
    run = place / "checkpoints"
    (run / "1").mkdir(parents=True)
    state = {
        "epoch": 2,
        "step": 7,
        "seconds": 3.5,
        "finished": False,
        "best": 0.5,
        "history": [{"epoch": 1, "loss": 0.1}],
    }
    parts = {"model.safetensors": tensors, "config.json": configs[0], "optimizer.safetensors": tensors}
    for name, content in (*parts.items(), ("state.json", json.dumps(state).encode())):
        (run / "1" / name).write_bytes(content)
    manifest = json.dumps(dict.fromkeys((*parts, "state.json"), "0" * 64)).encode()

    def read_with(folder: Path, name: str) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            shutil.copy(path, folder / name)
            return load_network(folder)

        return read

    def read_manifest(path: Path) -> object:
        shutil.copy(path, run / "1" / "manifest.json")
        return Checkpoints(run).newest()

    whole = place / "whole"
    shutil.copytree(place / "tiny", whole)
    structured = [mutate.of_json, mutate.of_json, mutate.of_text, mutate.of_bytes]
    packed = [mutate.of_safetensors, mutate.of_safetensors, mutate.of_bytes]
    return [
        Reader(
            "config", [("config.json", text) for text in configs], structured, lambda path: read_config(path.parent), 12
        ),
        Reader("model", [("config.json", configs[1])], structured, read_with(whole, "config.json"), 1),
        Reader("weights", [("model.safetensors", tensors)], packed, read_weights),
        Reader(
            "model weights", [("model.safetensors", tensors)], packed, read_with(place / "tiny", "model.safetensors"), 1
        ),
        Reader("state", [("state.json", json.dumps(state).encode())], structured, read_position, 8),
        Reader("manifest", [("manifest.json", manifest)], structured, read_manifest, 2),
    ]


CLASSES = b"""classes:
  - name: ground
    colour: [10, 20, 30]
  - name: tree
    value: 7
    colour: [0, 128, 0]
ignore: 255
masks: index
"""
RECIPE = b"""base: default
network: fcn16s-resnet18
crop: [64, 96]
scale: [0.5, 2.0]
learning_rate: 1e-3
epochs: 3
classes: {names: [a, b], ignore_index: 255}
preprocess: {mean: [1, 2, 3], std: [1, 2, 3], order: BGR}
"""
CHAIN = b"""base: default
network: fcn32s-resnet18
stages:
  one: {epochs: 2}
  two: {network: fcn16s-resnet18, epochs: 1}
"""
SCENE = b"base: hsi\nnetwork: fcn1s-spectral2\nsplit: blocks\nbands: [0, 1, [400, 500]]\nsteps: 5\n"
SETTINGS = (
    b"crop=[320, 320]",
    b"learning_rate=1e-3",
    b"network=fcn8s-resnet18",
    b"classes={names: [a]}",
    b"minutes=null",
)


def _texts(place: Path) -> list[Reader]:
    del place
    entry = {"file": "a.png", "size": 5, "mtime_ns": 7, "sha256": hashlib.sha256(b"12345").hexdigest()}
    line = {"epoch": 1, "loss": 0.5, "learning_rate": 0.1, "mean_iu": None}
    text = [mutate.of_text, mutate.of_text, mutate.of_bytes]

    def read_recipe(path: Path) -> None:
        find_scene_recipe(str(path)) or find_chain(str(path)) or find_recipe(str(path))

    def read_settings(path: Path) -> None:
        settings = parse_settings([path.read_text("utf-8", "replace")])
        change(Recipe(), settings, source="--set")

    def read_outputs(path: Path) -> None:
        shutil.copy(path, path.parent / ".fullyconv.jsonl")
        (path.parent / "a.png").write_bytes(b"12345")
        Outputs(path.parent).check(["a.png", "b.png"])

    return [
        Reader("classes.yaml", [("classes.yaml", CLASSES)], text, read_classes, 8),
        Reader("recipe", [("r.yaml", text_) for text_ in (RECIPE, CHAIN, SCENE)], text, read_recipe, 6),
        Reader("--set", [("set.txt", text_) for text_ in SETTINGS], text, read_settings, 8),
        Reader("list", [("train.txt", b"one\ntwo.jpg\nin/three.png 1\n\n")], text, read_list, 8),
        Reader(
            "metrics", [("m.jsonl", (json.dumps(line) + "\n").encode() * 3)], [mutate.of_json, *text], read_metrics, 6
        ),
        Reader(
            "outputs", [("o.jsonl", (json.dumps(entry) + "\n").encode() * 2)], [mutate.of_json, *text], read_outputs, 2
        ),
    ]


def _pictures(place: Path) -> list[Reader]:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)
    labels = rng.integers(0, 3, (9, 11)).astype(np.uint8)
    pictures: list[tuple[str, bytes]] = []

    def add(name: str, image: Image.Image, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, **options)  # type: ignore[arg-type]
        pictures.append((name, buffer.getvalue()))

    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9])
    add("x.png", Image.fromarray(colour), format="PNG", exif=exif)
    add("x.png", palette, format="PNG")
    add("x.png", Image.fromarray(labels.astype(np.uint16) * 900), format="PNG")
    add("x.png", Image.fromarray(labels > 1), format="PNG")
    add("x.jpg", Image.fromarray(colour), format="JPEG", exif=exif)
    add("x.bmp", Image.fromarray(colour), format="BMP")
    add("x.webp", Image.fromarray(colour), format="WEBP")
    add("x.tif", Image.fromarray(colour), format="TIFF", compression="tiff_lzw")
    add("x.tif", palette, format="TIFF")
    for values, options in (
        (colour.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb"}),
        (colour.astype(np.uint16) * 200, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        (labels / np.float32(2), {"tile": (16, 16), "bigtiff": True}),
        (labels.astype(np.int32) * 100, {"byteorder": ">"}),
        *((colour, {"photometric": "rgb", "compression": each}) for each in ("jpeg2000", "webp", "png", "lerc")),
    ):
        buffer = io.BytesIO()
        order = {"byteorder": options.pop("byteorder")} if "byteorder" in options else {}  # type: ignore[attr-defined]
        big = {"bigtiff": options.pop("bigtiff")} if "bigtiff" in options else {}  # type: ignore[attr-defined]
        with tifffile.TiffWriter(buffer, **order, **big) as file:
            file.write(values, **options)  # type: ignore[arg-type]
        pictures.append(("x.tif", buffer.getvalue()))
    samples = Path(pydicom.__file__).parent / "data" / "test_files"
    pictures += [("x.dcm", (samples / name).read_bytes()) for name in ("MR_small.dcm", "SC_rgb_rle.dcm")]
    scipy.io.savemat(place / "seg.mat", {"seg": labels + 1}, do_compression=True)
    scipy.io.savemat(place / "gt.mat", {"GTcls": {"Segmentation": labels + 1, "x": "text"}})
    masks = [
        (f"{number}{name}", content) for number, (name, content) in enumerate(pictures) if name[1:] in (".png", ".tif")
    ]
    indices, colours = ClassSet(("a", "b", "c")), np.unique(colour.reshape(-1, 3), axis=0).tolist()
    painted = ClassSet(tuple(map(str, range(len(colours)))), tuple(map(tuple, colours)), colour_masks=True)

    def read_mask(path: Path) -> None:
        raw = read_raw_mask(path)
        guess_classes([raw])
        decode_mask(raw, painted if path.name[0] in "07" else indices, path)

    def read_label_file(path: Path) -> None:
        read_mat(path, "seg" if path.name == "seg.mat" else "GTcls.Segmentation")

    formats = [mutate.of_png, mutate.of_tiff, mutate.of_bytes]
    label_files = [(name, (place / name).read_bytes()) for name in ("seg.mat", "gt.mat")]
    return [
        Reader("picture", pictures, formats, read_image, 8),
        Reader("mask", masks, formats, read_mask, 8),
        Reader("label .mat", label_files, [mutate.of_mat, mutate.of_bytes], read_label_file, 6),
    ]


def _scenes(place: Path) -> list[Reader]:
    bands = np.arange(8)[:, None] // 3 + np.zeros((1, 10), int)
    scene = make_scene(bands.astype(np.int16), class_set(3), bands=5)
    made: dict[str, list[tuple[str, bytes]]] = {}
    for name in ("s.mat", "s.npz", "s.tif", "s.npy", "s.hdr"):
        folder = place / "scenes"
        save_scene(scene, folder / name)
        made[name] = [(name, (folder / name).read_bytes())]
    scipy.io.savemat(place / "v5.mat", {"cube": scene.cube, "gt": bands + 1}, do_compression=False)
    made["s.mat"].append(("s.mat", (place / "v5.mat").read_bytes()))
    with h5py.File(place / "v7.mat", "w", userblock_size=512) as file:
        file["cube"] = scene.cube.T
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    content = (place / "v7.mat").read_bytes()
    made["s.mat"].append(("s.mat", header + content[len(header) :]))
    data = place / "scenes" / "s.img"
    left = np.arange(10)[None] < 5
    np.savez(place / "split.npz", train=left & (bands >= 0), test=~left & (bands >= 0), kind="masks", guard=0)

    def read_scene(path: Path) -> None:
        found = SceneFiles(path).open()
        np.asarray(found.cube[:1])

    def read_envi(path: Path) -> None:
        shutil.copy(data, path.with_suffix(".img"))
        read_scene(path)

    def read_labels(path: Path) -> None:
        SceneFiles(path).open_labels()

    return [
        Reader("scene .mat", made["s.mat"], [mutate.of_mat, mutate.of_bytes], read_scene, 4),
        Reader("scene .npz", made["s.npz"], [mutate.of_zip, mutate.of_zip, mutate.of_bytes], read_scene, 4),
        Reader("scene .npy", made["s.npy"], [mutate.of_npy], read_scene, 6),
        Reader("scene .tif", made["s.tif"], [mutate.of_tiff, mutate.of_bytes], read_scene, 2),
        Reader("scene .hdr", made["s.hdr"], [mutate.of_text, mutate.of_text, mutate.of_bytes], read_envi, 8),
        Reader("scene labels", made["s.npz"], [mutate.of_zip, mutate.of_bytes], read_labels, 2),
        Reader(
            "split",
            [("split.npz", (place / "split.npz").read_bytes())],
            [mutate.of_zip, mutate.of_zip, mutate.of_bytes],
            lambda path: read_split(path, bands),
            4,
        ),
    ]


def _archives(place: Path) -> list[Reader]:
    grounds = place / "archives"  # other tests' folders lie beside ``place``
    folder = grounds / "within" / "unpack"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("a/x.txt", "a/y.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 700
            tar.addfile(entry, io.BytesIO(bytes(700)))
    plain = buffer.getvalue()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as pack:
        for name in ("a/", "a/x.txt", "a/y.txt"):
            pack.writestr(name, "" if name.endswith("/") else "content " * 50)

    def read(path: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            unpack(path, folder)
        finally:
            shutil.rmtree(folder)
        outside = [each for each in grounds.rglob("*") if each.name in ("x", "b") and each.is_file()]
        if outside:
            raise AssertionError(f"unpacked to {outside}")

    def packed(compress: Callable[[bytes], bytes]) -> Mutation:
        def change(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
            del content
            return compress(mutate.of_tar(random, plain, others))

        return change

    tars = [("a.tar", plain), ("a.tar.gz", gzip.compress(plain, mtime=0)), ("a.tar.xz", lzma.compress(plain))]
    compressed = [packed(partial(gzip.compress, mtime=0)), packed(lzma.compress)]
    return [
        Reader("tar", tars, [mutate.of_tar, mutate.of_bytes, *compressed], read, 2),
        Reader("zip", [("a.zip", zipped.getvalue())], [mutate.of_zip, mutate.of_zip, mutate.of_bytes], read, 3),
    ]
