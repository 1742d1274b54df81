"""Pairs of an image and its mask, found by name: what every data set is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fullyconv.data.images import SUFFIXES
from fullyconv.files import BadFile
from fullyconv.types import ClassSet, Preprocess


@dataclass(frozen=True)
class Storage:
    """How a data set stores its masks.

    ``variable`` is the matrix of a MATLAB file (fields behind dots, ``GTcls.Segmentation``), empty for
    pictures. ``labels[raw - first]`` is the class of a raw label (or ``VOID``); without ``labels`` the
    raw labels are the mask values of the classes.
    """

    variable: str = ""
    labels: tuple[int, ...] = ()
    first: int = 0


PICTURES = Storage()


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file."""

    image: Path
    mask: Path
    storage: Storage = PICTURES

    @property
    def name(self) -> str:
        """The stem that pairs them."""
        return self.image.stem


@dataclass
class Folder:
    """A data set as found on disk: pairs by split, and what could not be paired."""

    root: Path
    splits: dict[str, list[Pair]] = field(default_factory=dict)
    problems: list[BadFile] = field(default_factory=list)
    note: str = ""  # what was decided that the folder does not say
    classes: ClassSet | None = None  # the official ones, where the folder is a data set we know
    preprocess: Preprocess | None = None  # the papers' for this data set; training measures its own

    def say(self, note: str) -> None:
        """Add to the note, once."""
        if note and note not in self.note:
            self.note = f"{self.note}; {note}" if self.note else note


@dataclass(frozen=True)
class Places:
    """Where images and masks lie, and how the masks are stored."""

    images: Path
    masks: Path
    storage: Storage = PICTURES

    @property
    def mask_suffixes(self) -> tuple[str, ...]:
        """The suffixes that mask files may have."""
        return (".mat",) if self.storage.variable else SUFFIXES


@dataclass(frozen=True)
class Listing:
    """The stems of a split, and the file that lists them."""

    file: Path
    stems: tuple[str, ...]


def read_list(file: Path) -> Listing:
    """Read a list of stems; suffixes, folders (of either slash) and further columns are dropped."""
    try:
        words = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(file, f"not a list ({error})", "restore it from its source") from None
    names = [Path(word.replace("\\", "/")) for word in words]
    known = (*SUFFIXES, ".mat")
    return Listing(file, tuple(name.stem if name.suffix.lower() in known else name.name for name in names))


def by_stem(directory: Path, folder: Folder, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """Find the files of a directory by their stems; a missing directory and a stem used twice are problems."""
    files: dict[str, Path] = {}
    if not directory.is_dir():
        folder.problems.append(BadFile(directory, "no such folder", "add it, or unpack the data set anew"))
        return files
    for file in sorted(directory.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith("."):
            continue
        if file.stem in files:
            folder.problems.append(
                BadFile(file, f"has the stem of {files[file.stem].name}", "rename one: stems pair images with masks")
            )
            continue
        files[file.stem] = file
    return files


def pair_all(folder: Folder, places: Places) -> list[Pair]:
    """Pair every image with its mask; what has no partner is a problem."""
    pictures, masks = _files(folder, places)
    for stem in sorted(pictures.keys() ^ masks.keys()):
        folder.problems.append(_lonely(stem, pictures, masks, places))
    return [Pair(pictures[stem], masks[stem], places.storage) for stem in sorted(pictures.keys() & masks.keys())]


def pair_listed(folder: Folder, places: Places, lists: dict[str, Listing]) -> None:
    """Fill the splits of ``folder`` from lists of stems, in their order; what is not there is a problem."""
    pictures, masks = _files(folder, places)
    for split, listing in lists.items():
        pairs = []
        for stem in listing.stems:
            if stem in pictures and stem in masks:
                pairs.append(Pair(pictures[stem], masks[stem], places.storage))
            elif stem in pictures or stem in masks:
                folder.problems.append(_lonely(stem, pictures, masks, places))
            else:
                what = f"lists {stem!r}, which has neither image nor mask"
                folder.problems.append(BadFile(listing.file, what, "correct the list, or add the pair"))
        folder.splits[split] = pairs


def compare_counts(folder: Folder, published: Mapping[str, int]) -> None:
    """Say in the folder's note which of its splits have another count of pairs than the published ones."""
    different = [
        f"{split} {len(pairs)} (published: {published[split]})"
        for split, pairs in folder.splits.items()
        if split in published and len(pairs) != published[split]
    ]
    if different:
        folder.say(f"other counts of pairs than published: {', '.join(different)}")


def _files(folder: Folder, places: Places) -> tuple[dict[str, Path], dict[str, Path]]:
    return by_stem(places.images, folder), by_stem(places.masks, folder, places.mask_suffixes)


def _lonely(stem: str, pictures: dict[str, Path], masks: dict[str, Path], places: Places) -> BadFile:
    if stem in pictures:
        wanted = f"{places.masks.name}/{stem}{'.mat' if places.storage.variable else '.png'}"
        return BadFile(pictures[stem], "has no mask", f"add {wanted}, or remove the image")
    return BadFile(masks[stem], "has no image", f"add {places.images.name}/{stem}, or remove the mask")
