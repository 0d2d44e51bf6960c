"""Whether a built site holds together: links lead to a page and a heading, and no page fetches from another host.

zensical build --strict && python distribution/check_site.py site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page names: its anchors, the links a reader may follow, and what a browser fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in one element."""
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if named.get(name)}
        followed = tag == "a" or named.get("rel") in ("canonical", "prev", "next")
        for name in ("href", "src", "data"):
            if name in named:
                (self.links if followed else self.fetched).append(named[name])
        self.fetched += [part.split()[0] for part in named.get("srcset", "").split(",") if part.strip()]


def faults(site: Path) -> list[str]:
    """What is wrong with the pages of a site, a line each."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site} has no pages"]
    for path, page in pages.items():
        found += [f"{path.name} fetches {link}" for link in page.fetched if urlsplit(link).netloc]
        for link in (*page.links, *page.fetched):
            place = urlsplit(link)
            if place.scheme or place.netloc:
                continue
            root = site if place.path.startswith("/") else path.parent
            target = (root / unquote(place.path).lstrip("/")).resolve() if place.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{path.name} leads to {link}, which is not there")
            elif place.fragment and target in pages and unquote(place.fragment) not in pages[target].anchors:
                found.append(f"{path.name} leads to {link}, a heading that is not there")
    return found


def main(site: Path) -> int:
    """Look into a built site; the exit code."""
    found = faults(site)
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    sys.stdout.write("" if found else "The site holds together.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
