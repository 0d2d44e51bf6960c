"""The page in Chromium: sorting, filtering, dark and light, print, without scripts, without a request or an error."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.report.page import html_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium, in Debian's package chromium")
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture
def place(tmp_path: Path, many: list[Any]) -> str:
    many[0]["findings"] = [{"code": "odd", "severity": "warn", "message": "is odd", "layer": "w", "hint": "Look."}]
    path = tmp_path / "page.html"
    path.write_text(html_page(many), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser: Any, place: str) -> Iterator[Any]:
    """The page; what it asks of a network and what it complains of fails the test."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(place)
    yield page
    page.close()
    assert [url for url in asked if url != place and not url.startswith("data:")] == [] and complaints == []


def column(page: Any, table: str, number: int) -> list[str]:
    cells = page.locator(f"#{table} tbody tr:visible > :nth-child({number})")
    return [each.strip() for each in cells.all_inner_texts()]


def test_tables_are_sorted_and_filtered(opened: Any) -> None:
    opened.locator("#gradients summary").click()
    head = opened.locator("#gradients thead th").nth(1)
    before = column(opened, "gradients", 2)
    head.locator("button").focus()
    opened.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    ascending = [float(each) for each in column(opened, "gradients", 2)]
    assert len(ascending) == 100 and ascending == sorted(map(float, before))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(each) for each in column(opened, "gradients", 2)] == ascending[::-1]
    opened.locator("#gradients input").fill("blocks.7.")
    assert sorted(column(opened, "gradients", 1)) == [f"blocks.7.part-{part}.weight" for part in range(4)]


def test_light_and_dark(opened: Any) -> None:
    def ground() -> str:
        return str(opened.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    opened.emulate_media(color_scheme="dark")
    dark = ground()
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 22, 26)")
    opened.locator("#theme").click()
    assert ground() == light
    opened.locator("#theme").click()
    assert ground() == dark
    opened.emulate_media(media="print")
    assert ground() == light


def test_a_narrow_screen_scrolls_pictures_alone(opened: Any) -> None:
    opened.set_viewport_size({"width": 400, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 400


def test_printing_opens_every_table(opened: Any) -> None:
    assert not opened.locator("#gradients table").is_visible()
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("#gradients table").is_visible()
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not opened.locator("#gradients table").is_visible()


def test_the_numbers_are_saved(opened: Any, tmp_path: Path, many: list[Any]) -> None:
    import bz2
    import json

    with opened.expect_download() as waiting:
        opened.locator("#numbers").click()
    waiting.value.save_as(tmp_path / "saved")
    assert waiting.value.suggested_filename == "fromage-diag.json.bz2"
    assert len(json.loads(bz2.decompress((tmp_path / "saved").read_bytes()))) == len(many)


def test_all_is_there_without_scripts(browser: Any, place: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(place)
    assert page.locator("h1").is_visible() and page.locator("svg").first.is_visible()
    assert not page.locator("#theme").is_visible()
    page.locator("#gradients summary").click()
    assert page.locator("#gradients tbody tr").count() == 100 and page.locator("#gradients table").is_visible()
    context.close()
