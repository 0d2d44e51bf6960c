"""Draws docs/report.png and docs/report-dark.png: the first screen of a page of `report`, in Chromium.

fromage-diag report sample_checkpoints/char-gpt --model sample_checkpoints/models.py:char_gpt -o report.html
python benchmarks/report_picture.py report.html
"""

import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main(page: Path) -> None:
    """Write both pictures; it takes playwright, and Chromium on the path."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for scheme, name in (("light", "report.png"), ("dark", "report-dark.png")):
            opened = browser.new_page(viewport={"width": 920, "height": 1000}, color_scheme=scheme)
            opened.goto(page.resolve().as_uri())
            for each in opened.locator("#learning-rate details").all():
                each.evaluate("one => one.open = false")
            opened.screenshot(path=DOCS / name)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
