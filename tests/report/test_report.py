"""The page of a run: what it shows, that names appear as they are, that it needs nothing else."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fullyconv import Evaluation, Segmenter, build
from fullyconv.cli import app
from fullyconv.crf import CRFParameters
from fullyconv.data.folder import open_folder
from fullyconv.data.pairs import Pair
from fullyconv.data.synthetic import CLASSES
from fullyconv.draw import ERROR_COLOURS, errors
from fullyconv.evaluation import evaluate
from fullyconv.evaluation.confidence import fit
from fullyconv.evaluation.scoring import merge
from fullyconv.hsi.plots import plot_spectra
from fullyconv.hsi.synthetic import make_scene, random_map
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.report import plot_confusion, write_report
from fullyconv.report.confusions import confusion_table
from fullyconv.report.figures import embed, plot_curves
from fullyconv.report.page import class_keys, picture, write_page
from fullyconv.report.run import SHOWN, worst_and_best
from fullyconv.scores.metrics import confusion
from fullyconv.types import ClassSet, Preprocess

ODD = ("<b>", "a[/b]", r"$\frac{1}$", "_under", "建物 & 'x' \"y\"", "</td><script>alert(1)</script>")


class Page(HTMLParser):
    """The words of a page and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @property
    def pictures(self) -> dict[str, str]:
        return {str(attrs["alt"]): str(attrs["src"]) for tag, attrs in self.elements if tag == "img"}


@pytest.fixture(scope="module")
def odd(shapes: Path) -> tuple[Segmenter, list[Pair]]:
    """An untrained model and pictures whose classes have names that are code elsewhere."""
    classes = ClassSet(ODD, CLASSES.colours)
    segmenter = Segmenter(build("fcn32s-resnet18", classes=6), classes=classes, preprocess=Preprocess(), device="cpu")
    return segmenter, list(open_folder(shapes).splits["train"])


def test_names_appear_as_they_are(odd: tuple[Segmenter, list[Pair]], tmp_path: Path) -> None:
    segmenter, pairs = odd
    evaluation = evaluate(segmenter, pairs)
    (tmp_path / "recipe.yaml").write_text("a: <u>")
    (tmp_path / "choices.json").write_text('[{"key": "crop", "value": [1, 2], "reason": "<i>why</i>"}]')
    page = Page(write_report(tmp_path, segmenter, evaluation, pairs, title="<i>run</i>").read_text())
    for name in ODD:
        # In the table of classes, at both sides of that of confusions, in the key of colours; elsewhere among others.
        assert page.words.count(name) >= 4
    assert "<i>run</i>" in page.words
    assert "a: <u>" in page.words
    assert {"[1, 2]", "<i>why</i>"} <= set(page.words)
    assert not {"i", "u"} & {tag for tag, _ in page.elements}
    assert only_script(page) == only_script(Page(write_page(tmp_path / "x.html", "page.html", EMPTY).read_text()))
    assert set(ODD) <= set(svg_words(embed(plot_confusion(evaluation))))


EMPTY = {"title": "", "recipe": ""}


def only_script(page: Page) -> str:
    """The one script, which no value of the page may change."""
    (attributes,) = [attributes for tag, attributes in page.elements if tag == "script"]
    assert not attributes
    (text,) = [word for word in page.words if "sortable" in word and "querySelectorAll" in word]
    return text


def svg_words(address: str) -> list[str]:
    tree = ET.fromstring(base64.b64decode(address.removeprefix("data:image/svg+xml;base64,")))
    return ["".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_the_page_needs_nothing_else(odd: tuple[Segmenter, list[Pair]], tmp_path: Path) -> None:
    segmenter, pairs = odd
    page = Page(write_report(tmp_path, segmenter, evaluate(segmenter, pairs), pairs, title="run").read_text())
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.elements}
    anchors = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for key in {"src", "href"} & attributes.keys():
            assert str(attributes[key]).startswith("data:") or attributes[key] in anchors


def test_cells_of_confusions_lead_to_pictures_that_have_them(odd: tuple[Segmenter, list[Pair]], tmp_path: Path) -> None:
    segmenter, pairs = odd
    evaluation = evaluate(segmenter, pairs)
    samples = {pair.name: segmenter.sample(pair) for pair in pairs}
    counted = {
        name: confusion(sample.labels, segmenter.predict(sample.image).labels, classes=6)
        for name, sample in samples.items()
    }
    for (truth, guess), examples in evaluation.examples.items():
        each = [(int(counts[truth, guess]), name) for name, counts in counted.items() if counts[truth, guess]]
        assert truth != guess
        assert [*examples] == sorted(each, key=lambda one: (-one[0], one[1]))[:2]
    rows, mistakes = confusion_table(evaluation, segmenter, {pair.name: pair for pair in pairs})
    led = {cell.anchor for row in rows for cell in row.cells if cell.anchor}
    assert led == {mistake.anchor for mistake in mistakes}
    assert mistakes
    for mistake in mistakes:
        assert all(address.startswith("data:image/jpeg") for _, _, address in mistake.pictures)
    halves = [evaluate(segmenter, pairs[start::2]) for start in (0, 1)]
    assert merge(halves, pairs).examples == evaluation.examples
    written = write_report(tmp_path, segmenter, evaluation, pairs, title="run", kin=["val: <b>like</b> train"])
    page = Page(written.read_text())
    assert "val: <b>like</b> train." in page.words
    assert any(word.startswith("advice: stride") for word in page.words)


def test_colours_are_explained_and_are_those_of_the_pictures(odd: tuple[Segmenter, list[Pair]], tmp_path: Path) -> None:
    segmenter, pairs = odd
    page = Page(write_report(tmp_path, segmenter, evaluate(segmenter, pairs), pairs, title="run").read_text())
    assert set(ERROR_COLOURS) <= set(page.words)
    assert "void, not scored" in page.words
    keys = {(key.colour) for key in class_keys(segmenter.classes, void="void")}
    for alt, address in page.pictures.items():
        if alt.startswith(("truth of", "prediction of")):
            assert colours_of(address) <= keys
        elif alt.startswith("errors of"):
            assert colours_of(address) <= set(ERROR_COLOURS.values())


def colours_of(address: str) -> set[tuple[int, ...]]:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def test_error_colours_say_what_they_mean() -> None:
    painted = errors(np.array([[0, 1, -1]]), np.array([[0, 0, 0]]))
    assert [tuple(colour) for colour in painted[0].tolist()] == [
        ERROR_COLOURS["right"], ERROR_COLOURS["wrong"], ERROR_COLOURS["not scored"],
    ]  # fmt: skip


@given(st.lists(st.one_of(st.just(float("nan")), st.floats(0, 1)), max_size=20), st.integers(1, 6))
def test_no_picture_is_among_the_best_and_the_worst(scores: list[float], most: int) -> None:
    image_iu = {f"{index:02d}": value for index, value in enumerate(scores)}
    worst, best = worst_and_best(image_iu, most=most)
    known = [value for value in scores if not np.isnan(value)]
    assert not set(worst) & set(best)
    assert len(worst) + len(best) == min(len(known), 2 * most)
    assert [image_iu[name] for name in worst] == sorted(known)[: len(worst)]
    assert [image_iu[name] for name in best] == sorted(known, reverse=True)[: len(best)]


@pytest.mark.parametrize(("count", "headings"), [(1, ["The image"]), (2, ["Worst images", "Best images"])])
def test_few_pictures_are_shown_once(
    odd: tuple[Segmenter, list[Pair]], tmp_path: Path, count: int, headings: list[str]
) -> None:
    segmenter, pairs = odd
    page = Page(
        write_report(tmp_path, segmenter, evaluate(segmenter, pairs[:count]), pairs[:count], title="run").read_text()
    )
    assert [word for word in page.words if word in ("The image", "Worst images", "Best images")] == headings
    assert sum(alt.startswith("image of") for alt in page.pictures) == count <= 2 * SHOWN
    assert f"{count} image{'s' if count > 1 else ''}, " in " ".join(page.words)


def test_with_a_crf_before_and_after_are_shown(odd: tuple[Segmenter, list[Pair]], tmp_path: Path) -> None:
    segmenter, pairs = odd
    crf = CRFSegmenter(segmenter, CRFParameters(iterations=1))
    page = Page(write_report(tmp_path, crf, evaluate(segmenter, pairs[:1]), pairs[:1], title="run").read_text())
    views = [alt.removesuffix(f" of {pairs[0].name}") for alt in page.pictures if alt.endswith(f" of {pairs[0].name}")]
    assert views == ["image", "truth", "before the CRF", "after the CRF", "errors", "uncertainty (entropy)"]


def test_confidence_is_shown_with_its_figures(odd: tuple[Segmenter, list[Pair]], tmp_path: Path) -> None:
    segmenter, pairs = odd
    found = fit(segmenter, pairs[:3])
    page = Page(
        write_report(tmp_path, segmenter, evaluate(segmenter, []), [], title="run", confidence=found).read_text()
    )
    assert f"{found.before.error:.3f} as the network gives its probabilities" in " ".join(" ".join(page.words).split())
    assert f"at temperature {found.temperature:.2f}" in " ".join(svg_words(page.pictures["reliability diagram"]))


def test_the_colour_bar_has_the_unit_of_the_cells() -> None:
    counts = np.array([[3, 1], [0, 0]])
    figure = plot_confusion(Evaluation(ClassSet(("a", "b")), counts, 0, {}))
    cells, bar = figure.axes
    assert [text.get_text() for text in cells.texts] == ["75", "25"]
    assert cells.images[0].get_clim() == (0, 100)
    assert bar.get_ylim() == (0, 100)
    assert bar.get_ylabel().endswith("%")


def test_long_names_leave_the_cells_their_size() -> None:
    sizes = []
    for name in ("b", "b" * 60):
        figure = plot_confusion(Evaluation(ClassSet(("a", name)), np.eye(2, dtype=np.int64), 0, {}))
        embed(figure)  # lays the figure out
        box = figure.axes[0].get_window_extent()
        sizes.append((box.width, box.height))
    assert np.allclose(sizes[0], sizes[1], rtol=0.5)


def test_a_class_that_never_occurs_has_no_figures(tmp_path: Path) -> None:
    classes = ClassSet(("a", "b"))
    segmenter = Segmenter(build("fcn4s-lenet", classes=2), classes=classes, preprocess=Preprocess(), device="cpu")
    nothing = Evaluation(classes, np.zeros((2, 2), np.int64), 5, {"x": float("nan")})
    text = write_report(tmp_path, segmenter, nothing, [], title="run").read_text()
    assert "Never in the truth: a, b." in " ".join(Page(text).words)
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)


def test_pictures_are_shrunk_and_maps_keep_their_colours() -> None:
    pixels = np.zeros((30, 400, 3), np.uint8)
    pixels[:, ::2] = (250, 10, 10)
    small = picture(pixels, longest=100, kind="PNG")
    assert Image.open(io.BytesIO(base64.b64decode(small.split(",")[1]))).size == (100, 8)
    assert colours_of(small) <= {(0, 0, 0), (250, 10, 10)}
    assert picture(pixels, longest=100, kind="JPEG").startswith("data:image/jpeg;base64,")


def test_a_template_without_its_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="undefined"):
        write_page(tmp_path / "page.html", "run.html", {"title": "run"})
    assert not list(tmp_path.iterdir())


def test_names_of_scene_classes_appear_as_they_are_in_plots() -> None:
    figure = plot_spectra(make_scene(random_map(40, 50, classes=6), ClassSet(ODD), bands=4))
    assert set(ODD) <= set(svg_words(embed(figure)))


def test_the_page_of_a_data_set_shows_what_is_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, names in {"train": ["a_1", "a_2", "b_1"], "val": ["a_3", "c_1"]}.items():
        for part in ("images", "masks"):
            (tmp_path / "data" / split / part).mkdir(parents=True)
        for name in names:
            blocks = np.random.default_rng(ord(name[0])).integers(0, 255, (6, 8, 3), np.uint8)
            street = Image.fromarray(blocks).resize((160, 120), Image.Resampling.BICUBIC)
            noisy = (np.asarray(street) + rng.normal(0, 3, (120, 160, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "data" / split / "images" / f"{name}.png")
            mask = (np.arange(160) % 40 < 3).astype(np.uint8)[None].repeat(120, 0)
            Image.fromarray(mask).save(tmp_path / "data" / split / "masks" / f"{name}.png")
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "data"), "--report", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    page = Page((tmp_path / "page" / "report.html").read_text())
    said = " ".join(" ".join(page.words).split())
    assert "val: 2 pictures, about 2 scenes" in said
    assert "a_3.png and a_" in said  # across splits
    assert "a_2.png and a_1.png" in said  # within train
    assert "b_1.png and" not in said
    assert "Advice: stride" in said
    again = CliRunner().invoke(app, ["data", "check", str(tmp_path / "data"), "--report", str(tmp_path / "page")])
    assert again.exit_code == 0, again.output


def test_a_loss_between_two_epochs_without_one_is_drawn() -> None:
    losses = (None, 1.5, None)  # a line needs two of them in a row
    epochs = [{"epoch": number, "loss": loss, "learning_rate": 0.1} for number, loss in enumerate(losses, start=1)]
    line = plot_curves(epochs).axes[0].lines[0]
    assert line.get_marker() not in ("", "None")
    assert line.get_ydata()[1] == 1.5
