"""Predicting on a Ray cluster: images from any file system, each labelled once, whatever dies meanwhile.

A worker is an actor with a model of its own, one for each GPU or CPU. Ray Data hands it some images at a time, no
faster than it is done with them, and hands them to another when it dies; what that writes again is the same. What is
done is written down in ``OUT/manifest``, which a second run reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fullyconv.checkpoint import CONFIG, WEIGHTS, find_model
from fullyconv.files import BadFile
from fullyconv.machine import ArithmeticName, DeviceName, out_of_memory
from fullyconv.outputs import PREDICTIONS, Outputs, out_of_room
from fullyconv.predict.folder import write_prediction
from fullyconv.predict.image import Segmenter
from fullyconv.predict.predictor import Predictor
from fullyconv.predict.remote import Image, Manifest, is_here, steadily, system, whole
from fullyconv.predict.views import Views, ViewsSegmenter
from fullyconv.predict.work import Outcome, Task, said_of

AT_ONCE = 16  # images that a worker is given: enough to hide Ray's milliseconds, few to do again after a death
FLUSH_LINES, FLUSH_SECONDS = 1000, 5.0  # what a death of the driver costs: these images are labelled again
DEATHS = 3  # workers that may die of an image before it is left out


@dataclass(frozen=True)
class Choices:
    """How images are labelled on a cluster; PyTorch computes, so that every worker finds the same.

    Attributes:
        probabilities: Also write those of every class.
        tta: Views to average over, as ``--tta`` takes them.
        precision: The arithmetic.
        device: ``auto``: GPUs, where the cluster has any.
        trust: Functions that the model may call.
        workers: How many; ``None``: one for each GPU, or each CPU.
        overwrite: Replace files that nobody has noted in the manifest.
    """

    probabilities: bool = False
    tta: str | None = None
    precision: ArithmeticName = "float32"
    device: DeviceName = "auto"
    trust: tuple[str, ...] = ()
    workers: int | None = None
    overwrite: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those of what is written for an image."""
        return (".png", "_overlay.jpg", *((".npz",) if self.probabilities else ()))


class RayJob:
    """The images that are to be labelled on a cluster, less those that were before.

    Args:
        model: A model folder, or the name of one that comes with the package; workers get a copy.
        images: As ``list_images`` gives them.
        out: The output folder, a path (on a disk that all machines see) or a URL.
        choices: How.

    Raises:
        BadFile: For a model or an output folder that cannot be used.
        ValueError: If Ray is not installed.
    """

    def __init__(self, model: Path | str, images: Sequence[Image], out: str, choices: Choices) -> None:
        try:
            import ray.data  # noqa: F401
        except ImportError:
            raise ValueError("predicting on a cluster takes Ray: pip install 'fullyconv[ray]'") from None
        folder = find_model(Path(model))
        self._model = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        # Opened here first: what is wrong with it is said once.
        _segmenter(folder, choices, "cpu")
        made_by = json.dumps([choices.probabilities, choices.tta, choices.precision]).encode()
        self._key = hashlib.sha256(b"".join((*self._model.values(), made_by))).hexdigest()[:16]
        self._out, self._choices = whole(out), choices
        self._manifest = Manifest(out)
        files, root = system(self._out)
        self._outputs = Outputs(Path(root), by=PREDICTIONS) if is_here(files) else None
        lines = self._manifest.lines()
        done = {line["image"]: line for line in lines if "problem" in line}
        self.left = [image for image in images if not self._done(image, done.get(image.url))]
        self.before = len(images) - len(self.left)
        self._refuse({line["target"] for line in lines})

    def _done(self, image: Image, line: Mapping[str, Any] | None) -> bool:
        wanted = {"problem": None, "mark": image.mark, "target": image.target, "model": self._key}
        return line is not None and all(line.get(key) == value for key, value in wanted.items())

    def _refuse(self, ours: set[str]) -> None:
        """Refuse to write over a file that no run has planned."""
        files, root = system(self._out)
        there = {os.path.relpath(path, root) for path in files.find(root)} if files.isdir(root) else set()
        for image in self.left if not self._choices.overwrite else ():
            for suffix in self._choices.suffixes:
                if image.target not in ours and image.target + suffix in there:
                    what = "is there, and the manifest does not say that fullyconv wrote it"
                    raise BadFile(f"{self._out}/{image.target}{suffix}", what, "choose another --out, or --overwrite")

    def outcomes(self) -> Iterator[Outcome]:
        """Label the images that are left; yields what became of each, in the order in which they are done.

        Raises:
            BadFile: When the output folder takes no more.
        """
        self._manifest.add([{"image": image.url, "target": image.target} for image in self.left])
        lines: list[dict[str, Any]] = []
        flushed = time.monotonic()
        try:
            for row in self._rows() if self.left else ():
                lines.append(json.loads(row["line"]) | {"model": self._key})
                if len(lines) >= FLUSH_LINES or time.monotonic() - flushed > FLUSH_SECONDS:
                    self._manifest.add(lines)
                    lines, flushed = [], time.monotonic()
                yield self._outcome(json.loads(row["line"]))
        finally:
            self._manifest.add(lines)

    def _outcome(self, line: Mapping[str, Any]) -> Outcome:
        task = Task(Path(line["image"]), Path(line["target"]))
        if line["problem"] is not None:
            return Outcome(task, problem=BadFile(line["image"], *line["problem"]))
        if self._outputs is not None:  # what is no input of later commands
            image = line["image"] if "://" in line["image"] else os.path.realpath(line["image"])
            self._outputs.adopt(*(line["target"] + suffix for suffix in self._choices.suffixes), made_of=image)
        return Outcome(task, labels=Path(self._out, line["target"] + ".png"))

    def _rows(self) -> Iterator[dict[str, Any]]:
        import ray
        import ray.data
        from ray.exceptions import RayError

        with _cluster():
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars, context.print_on_execution_start = False, False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            there = ray.cluster_resources()
            gpus = int(there.get("GPU", 0)) if self._choices.device != "cpu" else 0
            workers = self._choices.workers or gpus or int(there.get("CPU", 1))
            rows = [asdict(image) for image in self.left]
            labelled = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // AT_ONCE)).map_batches(
                _Worker,
                fn_constructor_args=(ray.put(self._model), self._choices, self._out, _begun().remote()),
                batch_size=None,  # a block as it is
                concurrency=min(workers, -(-len(rows) // AT_ONCE)),
                **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
            )
            try:
                yield from labelled.iter_rows()
            except (RayError, OSError) as error:
                cause = getattr(error, "cause", error)
                if isinstance(cause, OSError) and out_of_room(cause):
                    raise BadFile(self._out, f"no more room ({cause.strerror})", "make room and run it again") from None
                raise


@contextmanager
def _cluster() -> Iterator[None]:
    """Use the cluster that this process knows, or that ``RAY_ADDRESS`` names, or start one here for a while."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _begun() -> Any:
    """Return the class of an actor that counts how often images were begun and not finished."""
    import ray

    class Begun:
        def __init__(self) -> None:
            self._counts: dict[str, int] = {}

        def begin(self, url: str) -> int:
            self._counts[url] = self._counts.get(url, 0) + 1
            return self._counts[url]

        def end(self, url: str) -> None:
            self._counts.pop(url, None)

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Begun)


class _Worker:
    """A process that labels images, some at a time."""

    def __init__(self, model: Any, choices: Choices, out: str, begun: Any) -> None:
        import ray
        import torch

        gpu = torch.cuda.is_available() and bool(ray.get_gpu_ids())
        if not gpu:
            torch.set_num_threads(1)  # there are as many workers as cores
        with tempfile.TemporaryDirectory() as folder:
            for name, content in ray.get(model).items():
                Path(folder, name).write_bytes(content)
            self._segmenter = _segmenter(Path(folder), choices, "cuda" if gpu else "cpu")
        self._choices, self._out, self._begun = choices, out, begun
        self._name = f"{platform.node()} {os.getpid()}"

    def __call__(self, images: dict[str, Any]) -> dict[str, list[str]]:
        """Label images; gives a line of the manifest for each."""
        batch = f"from {images['url'][0]}"
        again = self._count("begin", batch) > 1  # a worker has died of one of these: which?
        rows = zip(images["url"], images["target"], images["mark"], strict=True)
        lines = [json.dumps(self._line(Image(*map(str, row)), careful=again)) for row in rows]
        self._count("end", batch)
        return {"line": lines}

    def _count(self, what: str, url: str) -> Any:
        import ray

        return ray.get(getattr(self._begun, what).remote(url))

    def _line(self, image: Image, *, careful: bool) -> dict[str, Any]:
        begun = time.monotonic()
        deaths = self._count("begin", image.url) - 1 if careful else 0
        problem = self._problem(image) if deaths < DEATHS else _fatal(deaths)
        if careful:
            self._count("end", image.url)
        line = {"image": image.url, "target": image.target, "mark": image.mark, "problem": problem}
        return line | {"seconds": round(time.monotonic() - begun, 4), "by": self._name}

    def _problem(self, image: Image) -> tuple[str, str] | None:
        """Label one image; gives what is wrong with it, and what to do."""
        try:
            self._label(image)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if (isinstance(error, RuntimeError) and not out_of_memory(error)) or (
                isinstance(error, OSError) and out_of_room(error)
            ):
                raise
            said = said_of(Task(Path(image.url), Path(image.target)), error)
            return said.what, said.fix
        return None

    def _label(self, image: Image) -> None:
        with tempfile.TemporaryDirectory() as folder:
            files, path = system(image.url)
            local = Path(path)
            if not is_here(files):
                local = Path(folder, "image" + local.suffix)
                steadily(partial(files.get_file, path, str(local)))
            found = self._segmenter.predict(local, probabilities=self._choices.probabilities)
            files, root = system(self._out)
            if is_here(files):
                write_prediction(found, Path(root, image.target))
                return
            write_prediction(found, Path(folder, "out"))
            for suffix in self._choices.suffixes:
                steadily(partial(files.put_file, f"{folder}/out{suffix}", f"{root}/{image.target}{suffix}"))


def _fatal(deaths: int) -> tuple[str, str]:
    return f"{deaths} workers have died of it, perhaps of the memory it takes", "predict it by itself, without Ray"


def _segmenter(folder: Path, choices: Choices, device: DeviceName) -> Segmenter:
    opened = Predictor(folder, choices.precision, "pytorch", device=device, trust=choices.trust).segmenter
    return opened if choices.tta is None else ViewsSegmenter(opened, Views.read(choices.tta))
