"""``fullyconv models``."""

from __future__ import annotations

from fullyconv.cli.console import out


def models() -> None:
    """List the trained models that come with the package: what they label, how well, and under which licence.

    Example: `fullyconv models` prints their names, and `fullyconv predict camvid photo.jpg --out labelled` uses one: a
    name will do wherever a model's folder is asked for.
    """
    from rich.table import Column, Table

    from fullyconv.checkpoint import WEIGHTS, read_config
    from fullyconv.models import CARD, packaged

    found = packaged()
    if not found:
        out.print("no model came with this installation")
        return
    typed = (Column(title, no_wrap=True) for title in ("name", "network"))  # what is typed is never cut short
    table = Table(*typed, "labels", "mean IU", "licence", "MB", title="models of the package")
    for name, folder in found.items():
        config = read_config(folder)
        score = config.notes.get("mean_iu")
        table.add_row(
            name,
            config.architecture.name,
            ", ".join(config.classes.names),
            f"{score:.3f}" if isinstance(score, float) else "",
            str(config.notes.get("licence", "see its card")),
            f"{(folder / WEIGHTS).stat().st_size / 1e6:.1f}",
        )
    out.print(table)
    for name, folder in found.items():
        out.print(f"{name}: {folder / CARD}", soft_wrap=True)
