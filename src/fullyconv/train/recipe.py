"""A recipe: every choice of a training run, as one frozen value."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from fullyconv.documents import format_yaml, numbers_in, read_yaml
from fullyconv.files import BadFile
from fullyconv.losses import Normalization
from fullyconv.machine import DeviceName, Precision
from fullyconv.networks import external_trunk, network_names, split_name
from fullyconv.networks.architecture import VARIANT
from fullyconv.networks.trunks.external import is_external
from fullyconv.train.elsewhere import ELSEWHERE
from fullyconv.train.optim import Descent
from fullyconv.types import ClassSet, Preprocess

MOST_VIEWS = 10_000_000  # of an epoch that repeats its pictures: their order alone takes 0.4 GB
MOST_LEVELS = 255  # noise of as much leaves nothing of a picture
MOST_SEED = 2**63 - 1  # PyTorch's
Positive = Annotated[int, Field(ge=1)]
Choices = TypeVar("Choices", bound=BaseModel)
"""A ``Recipe``, or another frozen value of choices."""


class Recipe(Descent):
    """The choices of a run. Lengths are in pixels, ``minutes`` in minutes of wall time.

    Raises:
        ValueError: For an unknown key or a value out of range (pydantic's ``ValidationError``).

    >>> Recipe(network="fcn16s-resnet18", minutes=30).network_name
    'fcn16s-resnet18'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    changeable: ClassVar[tuple[str, ...]] = (
        "epochs",
        "patience",
        "minutes",
        "device",
        "workers",
        "cache_gib",
        "validate_every",
    )

    auto: bool = False
    """Choose all that is not set from what the data and the machine are like (recipe ``auto``); the values below are
    those of recipes without."""
    network: str = "fcn8s-resnet18"
    """What ``build`` calls it; with ``trunk`` its variant is enough: ``fcn8s``, ``fpn4s``."""
    trunk: str | None = None
    """A classifier from elsewhere instead of the network's trunk: ``timm:convnext_tiny``, ``torchvision:resnet50``,
    ``my_package.nets:build`` (a function that gives the classifier)."""
    upsampling: Literal["fixed", "learned"] | None = None
    """``None`` is the network's own."""
    classes: ClassSet | None = None
    """The classes of the data set; ``None`` takes them from its ``classes.yaml`` or infers them."""
    weights: str | None = None
    """A file of the weights of ``trunk``'s classifier under its own names, ``.safetensors`` or ``.pth`` (read as
    tensors alone): where nothing can be downloaded."""
    pretrained: bool = False
    """Let the library of ``trunk`` fetch the weights it recommends, or take them from its cache."""
    start_from: str | None = None
    """A model folder, or a ``.safetensors`` file of named weights: what has its name and size here is taken over.
    Score layers it does not have start at zero; of a model of other classes only the trunk is taken."""
    second_from: str | None = None
    """A model folder that the second of two streams starts from (``nyud-fcn32s-color-hha``); ``None``: as the first."""
    preprocess: Preprocess | None = None
    """The normalisation of pixels; ``None`` takes that of ``start_from``'s model, or of the classifier whose weights
    the trunk starts from, else the data set's statistics."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Validate and deliver an exponential moving average of the weights that keeps this share of itself per update
    (0.998: of the last 500 or so); 0: the weights as they are."""
    statistics: Literal["auto", "running", "measured"] = "auto"
    """The batch statistics of what is validated and delivered: ``running`` averages, or ``measured`` anew, exactly,
    on 64 training views; ``auto`` measures where the averages lag (a trunk of momentum below 0.05) or weights are
    averaged."""
    crf: bool = False
    """Train a dense CRF with the network, behind it: weights per label and compatibilities (colour pictures, one task).
    It starts from that of ``start_from``'s model, trained or tuned; it goes with the model, and is always applied."""
    train_only: Literal["all", "scores"] = "all"
    """``scores`` freezes the trunk: only score layers (and learned upsampling) train (paper's FCN-32s-fixed)."""

    crop: tuple[Positive, Positive] | None = (320, 320)
    """Height and width of the training views; ``null`` trains on whole images (batch 1 unless all are alike)."""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    """Views are zoomed by a random factor between these two; what lies outside the image is void."""
    flip: bool = True
    """Mirror every other view from left to right, at random."""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Change brightness, contrast and saturation by random factors of up to 1 ± this."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn views by random angles of up to this many degrees, either way; what lies outside the image is void."""
    upside_down: bool = False
    """Mirror every other view from top to bottom, too: for pictures that have no up (cells, tissue, satellite)."""
    blur: Annotated[float, Field(ge=0)] = 0.0
    """Blur views by random Gaussians of up to this standard deviation, in pixels."""
    noise: Annotated[float, Field(ge=0, le=MOST_LEVELS)] = 0.0
    """Add noise of up to this standard deviation, in levels of 0..255."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Cut 0 to ``shift - 1`` pixels off the top and the left of each view; with ``sampling``, the network's stride."""

    epochs: Positive = 60
    """Passes over the training pairs."""
    repeat: Positive = 1
    """Views of every picture in an epoch: above 1 where pictures are few, so that an epoch is worth a validation."""
    patience: Positive | None = None
    """End the run after so many epochs without a better validation; ``None``: it goes on to the end. The best model is
    kept in either case."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """A budget: the schedule is shortened where the machine would need longer than this."""
    batch: Positive = 8
    """Views per batch."""
    accumulate: Positive = 1
    """Batches before each update, which follows the mean of their losses (Caffe's ``iter_size``). All wait for it in
    memory, which bounds their number."""
    loss: Literal["cross-entropy", "cross-entropy+dice", "cross-entropy+lovasz"] = "cross-entropy"
    """The softmax cross-entropy of pixels, alone or with a loss of regions: soft Dice, or Lovász-softmax (the IU)."""
    hardest: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the labelled pixels of a batch, the share with the highest cross-entropy that counts (bootstrapping)."""
    normalization: Normalization = "valid"
    """What divides a batch's summed loss: its labelled pixels, its images, all its pixels, or nothing."""
    sampling: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep each pixel's loss with this probability p, for 1/p times as many batches per update: patchwise training."""
    head_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Of pictures with several masks: what the losses of further heads, by their names, are multiplied by before they
    are added to the first head's, whose weight is 1; those not named weigh 1, too."""
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Class weights share ** -balance: 0 none, 1 inverse frequency."""
    balance_by: Literal["weighting", "sampling"] = "weighting"
    """Multiply the loss of a pixel by its class's weight, or keep it with a probability proportional to that."""

    device: DeviceName = "auto"
    """``auto`` is a GPU if there is one."""
    precision: Precision | Literal["auto"] = "auto"
    """``auto``: bf16 where the machine has instructions for it, else fp32."""
    checkpointing: bool = False
    """Forget the trunk's intermediate maps and compute them again for the gradient (gradient checkpointing): a fraction
    of the memory, for about a third more time. Results are the same."""
    sync_batchnorm: bool = False
    """Where several processes share a batch (``--devices``, ``torchrun``): take batch statistics over all of it, as in
    one process, not over each process's part."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare batches; 0 prepares them in a thread beside the training."""
    cache_gib: Annotated[float, Field(ge=0)] | None = None
    """Memory for decoded pictures, of training and validation, in GiB; ``None``: a quarter of what is free at the
    start. Pictures that do not fit are decoded each time, all of the training's by ``workers``. Results are the
    same."""
    validate_every: Positive = 1
    """Epochs between two scorings on the validation pairs; the last epoch is always scored."""
    mask_suffix: str | None = None
    """What the masks' stems have after the images' (``_gt``, ``_labelIds``); ``None`` finds it by counting."""
    pages: int | Literal["channels"] | None = None
    """Of pictures of several pages (TIFF) the one to take, from 0, or ``channels``: all of them."""
    instances: bool = False
    """Whether the masks number things (cells, nuclei), each its own: background and object are the classes then."""
    split: Literal["given", "group"] = "given"
    """``group`` validates on whole groups of pictures, whatever splits the data set has (but never on ``test``)."""
    group: str | int | None = None
    """What a picture belongs to (drive, patient, slide): a regular expression on its name, or how many folders up;
    ``None`` guesses it from the names."""
    hold_out: str | None = None
    """The one group to hold out; ``None`` holds out about a fifth of the pictures, in whole groups."""
    fold: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None
    """(k, K) holds out the k-th of K parts: of groups with ``split=group``, else of pictures; ``--folds`` does all."""
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 1337
    """What order, augmentation, dropout and fresh weights follow from."""

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str) -> str:
        if name not in network_names() and external_trunk(name) is None and not VARIANT.fullmatch(name):
            raise ValueError(f"unknown network{nearest(name, network_names())}")
        return name

    @field_validator("fold")
    @classmethod
    def _one_of(cls, fold: tuple[int, int] | None) -> tuple[int, int] | None:
        if fold is not None and fold[0] > fold[1]:
            raise ValueError(f"there is no part {fold[0]} of {fold[1]}")
        return fold

    @field_validator("trunk")
    @classmethod
    def _known_source(cls, name: str | None) -> str | None:
        if name is not None and not is_external(name):
            raise ValueError("write timm:NAME, torchvision:NAME or package.module:function")
        return name

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("weights", "pretrained", "start_from") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} both say where weights come from: leave one out")
        named = self.classifier is not None or (self.auto and not self.pretrained)  # which weights they are, auto sees
        if VARIANT.fullmatch(self.network_name) or ((self.weights or self.pretrained) and not named):
            key = given[0] if given else f"network={self.network}"
            raise ValueError(f"{key} is for a classifier from elsewhere: name it, trunk=timm:NAME")
        return self

    @model_validator(mode="after")
    def _one_division(self) -> Self:
        """Refuse what would be passed over in silence."""
        for key in ("group", "hold_out"):
            if getattr(self, key) is not None and self.split != "group":
                raise ValueError(f"{key}={getattr(self, key)} is about whole groups: set split=group with it")
        if self.hold_out is not None and self.fold is not None:
            raise ValueError("hold_out and fold both say what is held out: leave one out")
        return self

    @property
    def batches(self) -> int:
        """The batches of an update; a loss of which a share is sampled takes as many more to see as many terms."""
        return max(1, round(self.accumulate / self.sampling))

    @property
    def classifier(self) -> str | None:
        """The classifier from elsewhere that the network stands on, if it does."""
        external = external_trunk(self.network_name)
        return None if external is None else external[1]

    @property
    def network_name(self) -> str:
        """The network with its trunk, as ``build`` takes it."""
        if self.trunk is None:
            return self.network
        parts = split_name(self.network)
        variant = self.network if parts is None else self.network[: -len(parts.trunk) - 1]
        return f"{variant}-{self.trunk}"

    @field_validator("crop", "scale", "fold", mode="before")
    @classmethod
    def _pair(cls, value: Any, field: ValidationInfo) -> Any:
        """Take pairs however they are written: ``64,64``, ``64x64``; a crop of one number is a square."""
        found = numbers_in(value) if isinstance(value, str) else value
        if field.field_name == "crop" and isinstance(found, list) and len(found) == 1:
            found = found[0]
        return (found, found) if field.field_name == "crop" and type(found) is int else found

    @field_validator("scale")
    @classmethod
    def _rising(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"scale is (smallest, largest), not {scale}")
        return scale


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest what a misspelt word may have meant, as the end of an error message; else all words, nearest first."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f" {word!r}: did you mean {close[0]!r}?"
    names.sort(key=lambda name: -difflib.SequenceMatcher(None, word, name).ratio())
    return f" {word!r}: choose one of {', '.join(names)}"


def change(recipe: Choices, settings: dict[str, Any], *, source: str) -> Choices:
    """Replace fields of a recipe; raises ``ValueError`` naming ``source`` for unknown keys and bad values."""
    fields = type(recipe).model_fields
    for key in settings:
        if key not in fields:
            raise ValueError(f"{source}: unknown key{_ours(key, fields)}")
    try:
        # What nobody has set stays unset: ``auto`` may still choose it.
        return type(recipe).model_validate(recipe.model_dump(exclude_unset=True) | settings)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # two settings that do not go together
            raise ValueError(f"{source}: {first['msg'].removeprefix('Value error, ')}") from None
        key = ".".join(map(str, first["loc"]))
        said = _list_wanted(key.partition(".")[0], first["type"], settings, fields)
        said = said or first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{source}: {key}={str(first['input'])[:80]!r}: {said}") from None


def _list_wanted(key: str, kind: str, settings: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> str:
    """Say how to write a setting that takes several numbers, where that is what is wrong with it."""
    given, usual = settings.get(key), fields[key].default if key in fields else None
    if kind not in ("tuple_type", "missing", "too_long") or given is None:
        return ""
    number = given if isinstance(given, int | float) else "…"
    if not isinstance(usual, tuple):
        return f"write a list, {key}=[{number}]" if kind == "tuple_type" else ""
    example = [number] * len(usual) if number != "…" else usual
    return f"write {len(usual)} numbers, {key}=[{','.join(map(str, example))}]"


def _ours(key: str, known: Collection[str]) -> str:
    """Say what a key of other tools is called here, or which of ours is spelt most like it."""
    name = ELSEWHERE.get(key.lower())
    if name and name in known:
        return f" {key!r}: here it is {name!r}"
    return f" {key!r}: {name}" if name and " " in name else nearest(key, known)


def read_recipe(path: Path, named: Mapping[str, Choices]) -> Choices:
    """Read a YAML recipe; its ``base`` names the recipe it changes (default: ``default``)."""
    return make_recipe(read_document(path), named, path)


def read_document(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raises ``BadFile``."""
    document = read_yaml(path, fix="write a YAML mapping of recipe keys") or {}
    if not isinstance(document, dict):
        raise BadFile(path, "not a mapping", "write lines of the form 'epochs: 20'")
    return document


def make_recipe(document: Mapping[str, Any], named: Mapping[str, Choices], path: Path) -> Choices:
    """Change the recipe that ``base`` names (default: ``default``) by the other keys of a file."""
    base = document.get("base", "default")
    if not isinstance(base, str) or base not in named:
        raise BadFile(path, f"unknown base{nearest(str(base), named)}", "correct it")
    settings = {key: value for key, value in document.items() if key != "base"}
    return change(named[base], settings, source=str(path))


def write_recipe(recipe: BaseModel, path: Path) -> None:
    """Write every choice of a run, so that the file alone repeats it."""
    document = recipe.model_dump(mode="json")
    path.write_text(format_yaml(document), "utf-8")
