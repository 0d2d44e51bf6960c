"""The page under Lighthouse: nothing that keeps people from it, and nothing that browsers warn of."""

import json
import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.report.page import html_page

LIGHTHOUSE, CHROMIUM = shutil.which("lighthouse"), shutil.which("chromium")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.skipif(LIGHTHOUSE is None or CHROMIUM is None, reason="needs lighthouse 12, of npm, and Chromium")
def test_accessibility_and_best_practices_are_whole(tmp_path: Path, many: list[Any]) -> None:
    finding = {"code": "units-dead", "severity": "warn", "message": "is odd", "layer": "w", "hint": "Look."}
    many[0]["findings"] = [finding, {**finding, "severity": "fail"}, {**finding, "severity": "info"}]
    (tmp_path / "page.html").write_text(html_page(many), encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        subprocess.run(
            [str(LIGHTHOUSE), f"http://127.0.0.1:{server.server_port}/page.html", "--quiet", "--output=json",
             "--only-categories=accessibility,best-practices", f"--output-path={tmp_path / 'told.json'}",
             "--chrome-flags=--headless=new --no-sandbox"],
            env={**os.environ, "CHROME_PATH": str(CHROMIUM)}, check=True, capture_output=True, timeout=170,
        )  # fmt: skip
        server.shutdown()
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    faults = {name: audit["title"] for name, audit in told["audits"].items() if audit["score"] not in (1, None)}
    assert {name: category["score"] for name, category in told["categories"].items()} == {
        "accessibility": 1, "best-practices": 1}, faults  # fmt: skip
