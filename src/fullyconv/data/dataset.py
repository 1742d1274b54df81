"""Pairs of files as samples, and samples as batches."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fullyconv.augment import Augmentation, augment, sample_rng
from fullyconv.data.channels import read_channels
from fullyconv.data.images import picture_levels, rgb, warn_of
from fullyconv.data.masks import RawMask, decode_mask, read_raw_mask
from fullyconv.data.mat import read_mat
from fullyconv.data.nyud import with_beside
from fullyconv.data.pairs import OtherMask, Pair
from fullyconv.data.raster import COLOURS
from fullyconv.files import BadFile
from fullyconv.machine import free_memory
from fullyconv.types import VOID, ClassSet, Preprocess, Sample

TRAINED_ON = "trained_on"  # the note of a model that holds the digests of its training pictures
DIGITS = 12  # hexadecimal, of each digest: ten thousand pictures against as many collide once in a million times


def read_sample(pair: Pair, classes: ClassSet) -> Sample:
    """Read one pair.

    Args:
        pair: An image and its mask; masks of further tasks are left alone.
        classes: What the numbers or colours of the mask mean, where the pair does not say.

    Returns:
        The image, H x W x 3 uint8 RGB (or of more channels), its labels, H x W int16, and the stem. With pictures
        beside it H x W x K numbers. Where the image holds nothing ("no data", NaN), labels are ``VOID``.

    Raises:
        BadFile: For a file that cannot be used, a label that is no class, or sizes that differ.
    """
    return _read(pair.first, classes)


def read_every(pair: Pair, classes: ClassSet) -> Sample:
    """Read one pair with the masks of all its tasks: of T tasks labels are H x W x T; of one as ``read_sample``.

    Raises:
        BadFile: As ``read_sample``.
        ValueError: Where the classes of a further mask are not known yet.
    """
    return _read(pair, classes) if pair.further else read_sample(pair, classes)


def _read(pair: Pair, classes: ClassSet) -> Sample:
    image, missing = _read_picture(pair)
    labels = read_labels(pair, classes)
    if image.shape[:2] != labels.shape:
        raise size_mismatch(pair, image.shape[:2], labels.shape)
    if pair.beside:
        image = with_beside(image, pair)
    if pair.further:
        labels = np.stack([labels, *(_read_further(pair, mask, labels.shape) for mask in pair.further)], axis=2)
    if missing is not None:
        labels[missing] = VOID
    return Sample(image, labels, pair.name)


def _read_further(pair: Pair, target: OtherMask, size: tuple[int, ...]) -> np.ndarray:
    """Read the mask of a further task; raises ``BadFile``, and ``ValueError`` where its classes are not known."""
    if target.classes is None:
        raise ValueError(f"{target.mask}: the classes of head {target.head!r} are not known before check_folder")
    own = pair.of(target.head)
    labels = read_labels(own, target.classes)
    if labels.shape != size:
        raise size_mismatch(own, size, labels.shape)
    return labels


def read_picture(pair: Pair) -> np.ndarray:
    """Read a pair's image as its network sees it, H x W x 3 (or more channels) uint8; raises ``BadFile``."""
    return _read_picture(pair)[0]


def _read_picture(pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a pair's image, and which of its pixels hold nothing."""
    raster = read_channels(pair.image, pair.levels)
    if pair.levels is None and pair.channels == COLOURS:
        warn_of(raster, pair.image, "are neither trained on nor scored")
        return rgb(raster, pair.image), raster.missing
    return picture_levels(raster, pair.image, pair.levels, pair.channels), raster.missing


def picture_digest(image: np.ndarray) -> bytes:
    """Return what tells a picture from all others, whatever it is called: 16 bytes that follow from size and pixels.

    Args:
        image: H x W x C uint8.

    >>> picture_digest(np.zeros((2, 3, 3), np.uint8)) == picture_digest(np.zeros((3, 2, 3), np.uint8))
    False
    """
    pixels, size = np.ascontiguousarray(image).data, b"%dx%d" % image.shape[:2]
    return hashlib.blake2b(pixels, digest_size=16, person=size).digest()


def remember(pictures: Iterable[bytes]) -> str:
    """Write the digests of pictures in one word, for a model to keep.

    >>> remember([bytes(16)])
    '000000000000'
    """
    return "".join(sorted(digest.hex()[:DIGITS] for digest in pictures))


def trained_on(pairs: Sequence[Pair], notes: Mapping[str, Any]) -> list[Pair]:
    """Return the pairs whose pictures a model was trained on, by the notes beside its weights (silent: none).

    Raises:
        BadFile: For a picture that cannot be read.

    >>> trained_on([], {TRAINED_ON: "0" * 12})
    []
    """
    word = str(notes.get(TRAINED_ON, ""))
    known = {word[start : start + DIGITS] for start in range(0, len(word), DIGITS)}
    return [pair for pair in pairs if known and picture_digest(read_picture(pair)).hex()[:DIGITS] in known]


Reader = Callable[[Pair, ClassSet], Sample]
"""``read_sample``, ``read_every``, or what reads as one of them does."""


def read_stored(pair: Pair) -> RawMask:
    """Read the numbers or colours of a pair's mask as its data set stores them; raises ``BadFile``."""
    if pair.storage.variable:
        return RawMask(read_mat(pair.mask, pair.storage.variable))
    return read_raw_mask(pair.mask)


def read_labels(pair: Pair, classes: ClassSet) -> np.ndarray:
    """Read a pair's mask, H x W int16 (class index, or ``VOID`` where not scored).

    Raises:
        BadFile: Naming the labels that are no class.
    """
    return labels_of(read_stored(pair), pair, classes)


def labels_of(raw: RawMask, pair: Pair, classes: ClassSet) -> np.ndarray:
    """Turn the stored numbers or colours of a pair's mask into labels, as ``read_labels`` does."""
    classes = pair.classes or classes
    return _look_up(raw.values, pair, classes) if pair.storage.labels else decode_mask(raw, classes, pair.mask)


def _look_up(raw: np.ndarray, pair: Pair, classes: ClassSet) -> np.ndarray:
    first, table = pair.storage.first, np.array(pair.storage.labels, np.int16)
    if raw.ndim != 2 or raw.min() < first or raw.max() >= first + len(table):
        what = f"raw labels {raw.min()} to {raw.max()}"
        raise BadFile(
            pair.mask, what, f"the data set has {first} to {first + len(table) - 1}: is it a mask of another data set?"
        )
    labels: np.ndarray = table[raw - first]
    if labels.max() >= len(classes):
        what = f"a label of class {labels.max()}, of {len(classes)} classes"
        raise BadFile(pair.mask, what, "use a model of this data set's classes")
    return labels


def size_mismatch(pair: Pair, image: Sequence[int], mask: Sequence[int]) -> BadFile:
    """Say that a mask does not cover its image; sizes are (height, width)."""
    return BadFile(
        pair.mask,
        f"size mismatch: the mask is {mask[1]} x {mask[0]}, the image {image[1]} x {image[0]}",
        "save both at one size",
    )


class SampleCache:
    """Reads pairs as ``read_every`` does and keeps what it has decoded, as far as a number of bytes allows.

    What is first read is kept: where the pictures of an epoch do not all fit, dropping any for others would drop each
    before it is read again. A copy, in another process, starts empty. Nobody may write into a sample.

    Args:
        room: Bytes for images and labels; ``None``: a quarter of the memory that is free now.

    >>> SampleCache(room=0).room
    0
    """

    def __init__(self, room: int | None = None) -> None:
        self.room = free_memory() // 4 if room is None else room
        self._kept: dict[tuple[Pair, ClassSet], Sample] = {}
        self._lock = threading.Lock()

    def __call__(self, pair: Pair, classes: ClassSet) -> Sample:
        """Return the sample of a pair; see ``read_every``."""
        kept = self._kept.get((pair, classes))
        if kept is not None:
            return kept
        sample = read_every(pair, classes)
        needed = sample.image.nbytes + sample.labels.nbytes
        with self._lock:  # batches are prepared in a thread while another validates
            if needed <= self.room and (pair, classes) not in self._kept:
                self.room -= needed
                self._kept[pair, classes] = sample
        return sample

    def __reduce__(self) -> tuple[type[SampleCache], tuple[int]]:
        return SampleCache, (self.room,)


class Views(Dataset[tuple[Tensor, Tensor]]):
    """Random views of training pairs; view ``epoch * len(pairs) + i`` is the same whoever asks for it.

    Args:
        pairs: What to draw views of.
        classes: What the masks' numbers or colours mean.
        preprocess: How pixels become network input.
        options: What may happen to a view.
        seed: Of all randomness, together with the epoch and the pair's place.
        read: Reads a pair; ``SampleCache`` keeps what it has read (decoding takes nine tenths of the time).
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: ClassSet,
        preprocess: Preprocess,
        options: Augmentation,
        *,
        seed: int,
        read: Reader = read_every,
    ) -> None:
        self.pairs, self.classes, self.preprocess, self.options = pairs, classes, preprocess, options
        self.seed, self._read = seed, read

    def __len__(self) -> int:
        return len(self.pairs)

    def _sample(self, index: int) -> Sample:
        return self._read(self.pairs[index], self.classes)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Return 3 (or more) x h x w float32 and h x w int64 (``VOID`` where not scored); of T tasks T x h x w."""
        epoch, index = divmod(position, len(self.pairs))
        rng = sample_rng(seed=self.seed, epoch=epoch, index=index)
        view = augment(self._sample(index), self.options, fill=self.preprocess.fill, rng=rng)
        labels = view.labels.astype(np.int64)
        labels = labels if labels.ndim == 2 else np.ascontiguousarray(labels.transpose(2, 0, 1))
        return torch.from_numpy(self.preprocess(view.image)), torch.from_numpy(labels)


def epoch_order(*, count: int, epoch: int, seed: int) -> list[int]:
    """Shuffle the positions of one epoch, from (seed, epoch) alone.

    >>> sorted(epoch_order(count=3, epoch=2, seed=0))
    [6, 7, 8]
    """
    order = np.random.default_rng((seed, epoch, count)).permutation(count)
    return [epoch * count + int(index) for index in order]
