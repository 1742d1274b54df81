"""Which tool wrote a document of annotations, told by its content."""

from __future__ import annotations

from pathlib import Path

from fullyconv.annotations.coco import is_coco
from fullyconv.annotations.cvat import is_cvat
from fullyconv.annotations.documents import FIX, read_bytes, read_text
from fullyconv.annotations.geojson import is_geojson
from fullyconv.annotations.labelme import is_labelme
from fullyconv.annotations.labelstudio import is_labelstudio
from fullyconv.annotations.supervisely import META, is_supervisely
from fullyconv.data.layout import look
from fullyconv.files import BadFile, parse_json

SMALL = 1 << 22  # bytes of a document that is parsed to tell what it is


def sort_documents(source: Path) -> tuple[dict[str, list[Path]], list[BadFile]]:
    """Sort JSON and XML documents by the tool that wrote them; what is none of theirs is left out.

    Returns:
        The documents by kind, and what is wrong with those that are so broken that nobody can tell their kind.
    """
    kinds: dict[str, list[Path]] = {}
    broken: list[BadFile] = []
    for path in [found.path for found in look(source, (".json", ".geojson", ".xml"))]:
        try:
            kind = "" if path.name == META else _xml_kind(path) if path.suffix.lower() == ".xml" else _json_kind(path)
        except BadFile as bad:
            broken.append(bad)
        else:
            kinds.setdefault(kind, []).append(path)
    kinds.pop("", None)
    return kinds, broken


def _xml_kind(path: Path) -> str:
    text = read_text(path)
    if not text.strip():
        raise BadFile(path, "is empty", FIX)
    return "CVAT" if is_cvat(text) else ""


def _json_kind(path: Path) -> str:
    data = read_bytes(path)
    if path.suffix.lower() == ".geojson":
        return "GeoJSON"
    if len(data) > SMALL:  # one document for many pictures
        return "Label Studio" if data.lstrip()[:1] == b"[" else "COCO" if b'"segmentation"' in data else "LabelMe"
    try:
        document = parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise BadFile(path, f"not usable ({str(error).split(': ')[0]})", FIX) from None
    if is_labelstudio(document):
        return "Label Studio"
    tests = (("COCO", is_coco), ("LabelMe", is_labelme), ("Supervisely", is_supervisely), ("GeoJSON", is_geojson))
    return next((kind for kind, fits in tests if isinstance(document, dict) and fits(document)), "")
