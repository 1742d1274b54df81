"""Pairs of an image and its mask, found by name: what every data set is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fullyconv.data.images import SUFFIXES
from fullyconv.data.naming import folded, misnamed_pairs
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.types import ClassSet, Levels, Preprocess


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
JUDGED = ("train", "val", "test", "trainval")  # lists that have to be whole


@dataclass(frozen=True)
class OtherMask:
    """A further mask of a picture: that of the task ``head``, which has classes of its own."""

    head: str
    mask: Path
    storage: Storage = PICTURES
    classes: ClassSet | None = None  # known once the data set is checked, where it does not state them


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file; ``classes`` are what the mask holds, where they are not the reader's.

    ``levels`` and ``channels`` say how the image's numbers become what a network sees (``fullyconv.data.levels``).
    The pictures of ``beside`` (depth, HHA) are further channels behind the image's. ``further`` are the masks of
    further tasks, which a network of several heads learns from the same image.
    """

    image: Path
    mask: Path
    storage: Storage = PICTURES
    classes: ClassSet | None = None
    title: str = ""
    levels: Levels | None = None
    channels: int = 3
    beside: tuple[Path, ...] = ()
    further: tuple[OtherMask, ...] = ()

    @property
    def name(self) -> str:
        """The stem that pairs them; where several folders have it, with the folder."""
        return self.title or self.image.stem

    @property
    def first(self) -> Pair:
        """The image with its first mask alone."""
        return replace(self, further=()) if self.further else self

    def of(self, head: str) -> Pair:
        """Return the image with the mask of a further task alone."""
        own = next(target for target in self.further if target.head == head)
        return replace(self, mask=own.mask, storage=own.storage, classes=own.classes, further=())


@dataclass
class Folder:
    """A data set as found on disk: pairs by split, and what could not be paired."""

    root: Path
    splits: dict[str, list[Pair]] = field(default_factory=dict)
    problems: list[BadFile] = field(default_factory=list)
    lacking: dict[str, list[BadFile]] = field(default_factory=dict)  # those of them that are of one split alone
    beside: tuple[str, ...] = ()  # where further channels of each image lie, see ``fullyconv.types.Levels``
    note: str = ""  # what was decided that the folder does not say
    classes: ClassSet | None = None  # the official ones, where the folder is a data set we know
    preprocess: Preprocess | None = None  # the papers' for this data set; training measures its own
    heads: dict[str, ClassSet | None] = field(default_factory=dict)  # further tasks, and the classes stated for them
    task: str = ""  # of which further task these are the masks
    stated: ClassSet | None = None  # the classes stated for that task

    def head(self, name: str) -> Folder:
        """Return the same pictures with the masks of a further task; raises ``BadFile`` if there is none of that name.

        Pairs without such a mask are left out.
        """
        if name not in self.heads:
            what = f"has no masks of the head {name!r}"
            raise BadFile(self.root, what, "declare where they lie in classes.yaml, under 'heads'")
        splits = {
            split: [pair.of(name) for pair in pairs if any(target.head == name for target in pair.further)]
            for split, pairs in self.splits.items()
        }
        official = None if self.classes is None else self.heads[name]
        return Folder(self.root, splits, classes=official, task=name, stated=self.heads[name])

    def name_classes(self, head: str, classes: ClassSet) -> None:
        """Let the masks of a further task be read by these classes."""

        def named(pair: Pair) -> Pair:
            changed = (replace(own, classes=classes) if own.head == head else own for own in pair.further)
            return replace(pair, further=tuple(changed))

        self.splits = {split: [named(pair) for pair in pairs] for split, pairs in self.splits.items()}

    def read_as(self, levels: Levels | None, channels: int) -> None:
        """Let the images of all pairs be read so."""
        self.splits = {
            split: [replace(pair, levels=levels, channels=channels) for pair in pairs]
            for split, pairs in self.splits.items()
        }

    def say(self, note: str) -> None:
        """Add to the note, once."""
        if note and note not in self.note:
            self.note = f"{self.note}; {note}" if self.note else note

    def keep(self, splits: Collection[str]) -> None:
        """Forget the other splits, and what is wrong with them alone: what is not used need not be in order."""
        unused = {id(bad) for split, found in self.lacking.items() if split not in splits for bad in found}
        self.problems = [problem for problem in self.problems if id(problem) not in unused]
        self.splits = {split: pairs for split, pairs in self.splits.items() if split in splits}


@dataclass(frozen=True)
class Places:
    """Where images and masks lie, and how the masks are stored."""

    images: Path
    masks: Path
    storage: Storage = PICTURES
    mask_stem: Callable[[str], str | None] = str  # of an image's stem

    @property
    def mask_suffixes(self) -> tuple[str, ...]:
        """The suffixes that mask files may have."""
        return (".mat",) if self.storage.variable else SUFFIXES


@dataclass(frozen=True)
class Listing:
    """The stems of a split, and the file that lists them.

    ``lines`` are the whole lines, where the file has them: names may hold blanks, and a line further columns.
    ``paths`` are the first columns with their folders, without suffixes.
    """

    file: Path
    stems: tuple[str, ...]
    lines: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


def read_list(file: Path) -> Listing:
    """Read a list of names, one a line; suffixes, folders (of either slash) and further columns are dropped.

    Raises:
        BadFile: For what is no text in UTF-8 (with or without a byte order mark), or too long.
    """
    try:
        if file.stat().st_size > LIMITS.text_bytes:
            raise BadFile(file, f"more than {LIMITS.text_bytes} bytes of text", LIMITS.remedy("text_bytes"))
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise BadFile(file, "a list that is not UTF-8 text", "save it as UTF-8, a name a line") from None
    except FileNotFoundError:
        raise BadFile(
            file, "there is no such list", "name the data set's own folder, or write it, a name a line"
        ) from None
    except OSError as error:
        raise BadFile(file, f"a list that cannot be read ({error})", "check its permissions") from None
    words = [line.split()[0].replace("\\", "/") for line in lines]
    paths = (word[: len(word) - len(Path(word).name)] + _stem(word) for word in words)
    return Listing(file, tuple(map(_stem, words)), tuple(map(_stem, lines)), tuple(paths))


def _stem(word: str) -> str:
    name = Path(word.replace("\\", "/"))
    return name.stem if name.suffix.lower() in (*SUFFIXES, ".mat") else name.name


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
    both = sorted(pictures.keys() & masks.keys())
    alone = sorted(pictures.keys() ^ masks.keys())
    misnamed = misnamed_pairs(pictures, masks)
    if misnamed is not None:
        folder.problems.append(misnamed)
    if both or misnamed is None:  # where nothing pairs, the reason is enough: not a line for each file
        folder.problems += [lonely(stem, pictures, masks, places) for stem in alone]
    return [Pair(pictures[stem], masks[stem], places.storage) for stem in both]


def pair_listed(folder: Folder, places: Places, lists: dict[str, Listing]) -> None:
    """Fill the splits of ``folder`` from lists of names, in their order.

    What a list names and is not there is a problem; but lists other than the usual splits (``JUDGED``), such as
    ``trainaug``, may name pictures whose masks are elsewhere: they keep what is there, and a note tells the rest.
    """
    fill_splits(folder, *_files(folder, places), places, lists)


def fill_splits(
    folder: Folder, pictures: dict[str, Path], masks: dict[str, Path], places: Places, lists: Mapping[str, Listing]
) -> None:
    """Fill the splits of ``folder`` as ``pair_listed`` does, from files that pair by the same name."""
    misnamed = misnamed_pairs(pictures, masks)
    if misnamed is not None:
        folder.problems.append(misnamed)
    known = {folded(name): name for name in sorted({*pictures, *masks})}
    for split, listing in lists.items():
        pairs, problems = [], []
        for line, spellings in zip(listing.lines or listing.stems, _spellings(listing), strict=True):
            stem = next((each for each in spellings if each in pictures or each in masks), None)
            stem = stem or next((known[folded(each)] for each in spellings if folded(each) in known), line)
            if stem in pictures and stem in masks:
                title = stem if stem != pictures[stem].stem else ""
                pairs.append(Pair(pictures[stem], masks[stem], places.storage, title=title))
            elif stem in pictures or stem in masks:
                problems.append(lonely(stem, pictures, masks, places))
            else:
                what = f"lists {line!r}, which has neither image nor mask"
                problems.append(BadFile(listing.file, what, "correct the list, or add the pair"))
        folder.splits[split] = pairs
        if split not in JUDGED and problems:
            folder.say(f"{split}: {len(problems)} of {len(listing.stems)} pictures have no pair here and are left out")
        elif misnamed is None or pairs:
            folder.problems += problems
            folder.lacking[split] = problems


def _spellings(listing: Listing) -> Iterator[tuple[str, ...]]:
    """Yield for each line what may be its picture's name: the line, its first column, that with its folders."""
    paths = listing.paths or listing.stems
    for line, path in zip(listing.lines or listing.stems, paths, strict=True):
        parts = path.split("/")
        yield (line, *("/".join(parts[start:]) for start in range(len(parts))))


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


def lonely(stem: str, pictures: dict[str, Path], masks: dict[str, Path], places: Places) -> BadFile:
    """Say what an image or a mask lacks, and how it is to be called."""
    if stem in pictures:
        wanted = f"{places.masks.name}/{places.mask_stem(stem) or stem}{'.mat' if places.storage.variable else '.png'}"
        return BadFile(pictures[stem], "has no mask", f"add {wanted}, or remove the image")
    return BadFile(masks[stem], "has no image", f"add {places.images.name}/{stem}, or remove the mask")
