"""Check every link within the built site: python docs/check_links.py SITE. Pages elsewhere are listed, not fetched."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Links(HTMLParser):
    """The targets and the anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = {"", "__top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where an element leads and what it is called."""
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.targets.add(value)
            elif key in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(site: Path) -> tuple[list[str], set[str], int]:
    """Return what leads nowhere as ``page: target``, the hosts of other sites, and how many links were followed."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken, hosts, followed = [], set(), 0
    for page, links in pages.items():
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                hosts.add(parts.netloc or parts.scheme)
                continue
            followed += 1
            base = site if parts.path.startswith("/") else page.parent
            file = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
            file = file / "index.html" if file.is_dir() else file
            known = pages.get(file)
            if not file.is_file() or (known is not None and unquote(parts.fragment) not in known.anchors):
                broken.append(f"{page.relative_to(site)}: {target}")
    return broken, hosts, followed


def main(site: Path) -> int:
    """Print what is broken; 1 if anything is."""
    broken, hosts, followed = broken_links(site.resolve())
    print("\n".join(broken))
    print(f"{followed} links within the site, {len(broken)} broken; other hosts: {', '.join(sorted(hosts))}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
