"""What the site's builder does to pages: links that leave docs/ go to the repository; commands are described."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.exceptions import PluginError

from fullyconv.cli import app

LINK = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")
COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Send links to files of the repository that are no pages to where the repository is read; each must exist."""
    docs = Path(config["docs_dir"]).resolve()
    here = (docs / page.file.src_uri).parent

    def outside(found: re.Match[str]) -> str:
        target = (here / found[1]).resolve()
        if target.is_relative_to(docs):
            return found[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: {found[1]} does not exist")
        home = f"{config['repo_url'].rstrip('/')}/tree/main"
        return f"]({home}/{target.relative_to(docs.parent).as_posix()}{found[2] or ''})"

    if COMMANDS in markdown:
        described = "\n".join(describe(typer.main.get_command(app), "fullyconv"))
        markdown = markdown.replace(COMMANDS, described)
    return LINK.sub(outside, markdown)


def describe(command: Any, name: str) -> Iterator[str]:
    """Write a command's help, arguments and options as Markdown, then those of its subcommands."""
    subcommands = getattr(command, "commands", {})
    if not subcommands:
        yield f"## {name}\n\n{command.help}\n"
        yield "| argument or option | | default |\n|---|---|---|"
        for parameter in command.params:
            if parameter.name != "help":
                yield f"| {_spelling(parameter)} | {_cell(parameter.help or '')} | {_default(parameter)} |"
        yield ""
    for word, subcommand in subcommands.items():
        yield from describe(subcommand, f"{name} {word}")


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.rstrip('_').upper()}{'…' if parameter.nargs == -1 else ''}`"
    return f"`{', '.join(parameter.opts)}`"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, False, (), "") else f"`{parameter.default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
