"""Every classifier of timm and torchvision as a fully convolutional network, with random weights.

    python benchmarks/classifiers.py --out runs/classifiers            # one model of each family, minutes
    python benchmarks/classifiers.py --all --out runs/classifiers      # all in random order, hours; continues

For each: whether ``convolutionize`` takes it, the largest difference between the mean of its map and the
classifier's scores on the example (relative to the largest score), the taps and offsets of ``from_classifier`` at
stride 8 and the size of its output for 97 x 131 pixels; otherwise the error. Batch statistics are made uneven first.
``--train`` trains ten of them for a few steps each, saves and reloads them, and compares the outputs.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fullyconv import convolutionize, from_classifier, save
from fullyconv.checkpoint import load_network
from fullyconv.networks import Architecture
from fullyconv.networks.trunks.external import build_classifier, library, usual_example
from fullyconv.surgery.layers import without_weights
from fullyconv.trace import record, walk

SIZE = (97, 131)
TOLERANCE = 1e-4
TRAINED = (
    "timm:resnet18", "timm:convnext_atto", "timm:mobilenetv3_small_050", "timm:efficientnet_b0", "timm:regnety_002",
    "timm:densenet121", "timm:repvgg_a0", "timm:hrnet_w18_small", "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5",
)  # fmt: skip

# What a purely convolutional network does not do, by the words of the errors that say so …
NOT_CONVOLUTIONAL = re.compile(r"attn|attention|fully connected over|tokens|mixer|qkv|transformer|Unfold|unfold|embed")
# … and networks with attention or a state-space scan that are stopped before they come to it.
ATTENDING = re.compile(r"hiera|samvit|mobilevit|efficientformer|efficientvim|tnt_|nextvit|csatv2|swin|gcvit|davit|bat_")


def main() -> None:
    """Run the sweep or the trainings and write the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", help="models, as timm:resnet18; default: one of each family")
    options.add_argument("--all", action="store_true")
    options.add_argument("--train", action="store_true")
    options.add_argument("--table", action="store_true", help="write the table of what has been measured, no more")
    options.add_argument("--most-millions", type=float, default=120, help="leave out models of more parameters")
    options.add_argument("--out", type=Path, default=Path("runs/classifiers"))
    given = options.parse_args()
    logging.disable(logging.WARNING)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.train:
        for name in given.names or TRAINED:
            print(json.dumps(train(name)), flush=True)
        return
    journal = given.out / "rows.jsonl"
    done = {row["name"] for row in rows_of(journal)}
    names = [] if given.table else given.names or one_of_each_family(every_name())
    if given.all and not given.table:
        names = every_name()
        random.Random(0).shuffle(names)  # so that a part of them is a fair sample
    for name in names:
        if name not in done:
            row = measure(name, given.most_millions)
            with journal.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["name"], row.get("error", row.get("difference")), flush=True)
    (given.out / "classifiers.md").write_text(table(rows_of(journal)))


def rows_of(journal: Path) -> list[dict[str, Any]]:
    """Read what has been measured."""
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.is_file() else []


def every_name() -> list[str]:
    """List all classifiers of both libraries."""
    models: Any = library("torchvision").models
    timm: Any = library("timm")
    return [
        *(f"torchvision:{name}" for name in models.list_models(module=models)),
        *(f"timm:{name}" for name in timm.list_models()),
    ]


def family(name: str) -> str:
    """Tell what a model is a variant of: its library and the letters its name begins with."""
    library, _, entry = name.partition(":")
    return f"{library}:{re.match(r'(tf_|test_)?[a-z]+', entry)[0]}"  # type: ignore[index]


def one_of_each_family(names: list[str]) -> list[str]:
    """Choose the first model of each family."""
    return list({family(name): name for name in reversed(names)}.values())[::-1]


def measure(name: str, most_millions: float) -> dict[str, Any]:
    """Convert one classifier and compare."""
    began = time.perf_counter()
    shape = without_weights(lambda: build_classifier(name))
    millions = sum(parameter.numel() for parameter in shape.parameters()) / 1e6
    row: dict[str, Any] = {"name": name, "millions": round(millions, 1)}
    example = usual_example(shape) or ((3, 299, 299) if "inception" in name else (3, 224, 224))
    try:
        walk(record(shape, example))
    except ValueError as error:  # what is refused need not be built
        return row | {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    if millions > most_millions:
        return row | {"left out": "too large"}
    torch.manual_seed(0)
    network = build_classifier(name).eval()
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    try:
        dense = convolutionize(network, example)
        image = torch.randn(1, *example)
        with torch.inference_mode():
            scores, found = network(image), dense(image)
        row["difference"] = float((found.mean((2, 3)) - scores).abs().max() / scores.abs().max())
        row["slides"] = dense.slides
        fcn = finest(network, name, example)
        row["taps"], row["strides"] = fcn.trunk.tapped, [str(stride) for stride in strides(fcn)]
        row["offsets"] = [stage.offset for stage in fcn.plans[0].stages]
        row["margin"] = fcn.plans[0].margin
        with torch.inference_mode():
            row["output"] = list(fcn(torch.randn(1, example[0], *SIZE)).shape[2:])
        row["remarks"] = Counter(remark.kind for remark in fcn.remarks)
    except Exception as error:  # the table is to name whatever goes wrong
        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def finest(network: nn.Module, name: str, example: tuple[int, int, int]) -> Any:
    """Make the FCN-8s, or where there is no map at stride 8 that of the coarsest map alone."""
    try:
        return from_classifier(network, 5, 8, example=example, origin=name).eval()
    except ValueError as error:
        if "no map at stride" not in str(error):
            raise
        return from_classifier(network, 5, int(str(error).split()[-1]), example=example, origin=name).eval()


def strides(fcn: Any) -> list[Any]:
    """Give the strides of the maps of an FCN, coarse to fine."""
    from fullyconv.geometry import axis_map

    return [axis_map(path).scale for path in fcn.plans[0].taps]


def table(rows: list[dict[str, Any]]) -> str:
    """Write what was measured as Markdown."""
    measured = [row for row in rows if "left out" not in row]
    agree = [row for row in measured if row.get("difference", 1) <= TOLERANCE and row.get("output") == list(SIZE)]
    other = [{"error": "differs or gives another size"} | row for row in measured if row not in agree]
    excluded = [row for row in other if NOT_CONVOLUTIONAL.search(row["error"]) or ATTENDING.search(row["name"])]
    failed = [row for row in other if row not in excluded]
    convolutional = len(agree) + len(failed)
    lines = [
        f"{len(measured)} classifiers: {len(agree)} convert, agree to {TOLERANCE:g} of the largest score and label "
        f"{SIZE[0]} x {SIZE[1]} pixels; {len(excluded)} attend to or are fully connected over positions and are "
        f"refused by name; {len(failed)} of {convolutional} convolutional ones "
        f"({len(failed) / max(convolutional, 1):.1%}) fail otherwise. "
        f"{len(rows) - len(measured)} were left out for their size.",
        "",
        "| model | parameters, M | difference | head | strides | taps | offsets | margin | said |",
        "|---|--:|--:|---|---|---|---|--:|---|",
    ]
    lines += [
        f"| {row['name']} | {row['millions']:g} | {row['difference']:.1e} | {'window' if row['slides'] else 'mean'} | "
        f"{', '.join(row['strides'])} | {', '.join(reversed(row['taps']))} | {', '.join(map(str, row['offsets']))} | "
        f"{row['margin']} | {', '.join(f'{count} {kind}' for kind, count in row['remarks'].items())} |"
        for row in sorted(agree, key=lambda row: row["name"])
    ]
    lines += ["", "Failed:", "", "| model | why |", "|---|---|"]
    lines += [f"| {row['name']} | {row['error'].replace('|', '/')} |" for row in failed]
    lines += ["", "Refused:", "", "| the first operation that stops it | models |", "|---|---|"]
    reasons: dict[str, list[str]] = {}
    for row in excluded:
        reasons.setdefault(re.sub(r"\([\d, ]+\)", "…", row["error"].partition("): ")[2] or row["error"]), []).append(
            row["name"]
        )
    lines += [f"| {reason} | {', '.join(sorted(names))} |" for reason, names in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def train(name: str, steps: int = 5) -> dict[str, Any]:
    """Train an FCN-8s on a classifier for some steps, save and reload it."""
    torch.manual_seed(0)
    network = from_classifier(name, 4, 8).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.9)
    images, labels = torch.randn(2, 3, 96, 128), torch.randint(0, 4, (2, 96, 128))
    losses = []
    for _ in range(steps):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 4))
    picture = torch.randn(1, 3, *SIZE)
    with TemporaryDirectory() as folder, torch.inference_mode():
        save(network, folder)
        before, after = network.eval()(picture), load_network(folder)[0](picture)
    assert isinstance(network.architecture, Architecture)
    return {
        "name": network.architecture.name, "losses": losses, "identical": torch.equal(before, after)
    }  # fmt: skip


if __name__ == "__main__":
    main()
