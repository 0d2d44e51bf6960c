"""README.md and docs/: they show what commands print, links lead somewhere, sentences are short, all is in the site."""

import doctest
import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fromage_cli.cli import build_program
from fromage_cli.diagnostics import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDIES = {
    "early-warning",
    "hugging-face-families",
    "hypergrad-study",
    "learning-rate-study",
    "regime-study",
    "run-study",
    "schedule-study",
    "state-study",
}
GUIDES = [page for page in PAGES if page.stem not in STUDIES]
README_LINES, SENTENCE_WORDS, PICTURE_BYTES = 200, 25, 100_000
PICTURES = re.compile(r'(?:!\[[^]]*\]\(|(?:src|srcset)=")([\w/-]+\.svg)')
"""Pictures that a page shows, as Markdown and as HTML."""
NAV = re.compile(r"(?m)^ +- [^:\n]+: (\S+\.md)$")
BLOCK = re.compile(r"^```(?P<kind>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:\]\(|src=\"|srcset=\")([^)\"\s]+)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
FLAGS_OF_OTHERS = {
    *("--array", "--cpus-per-task", "--ntasks", "--dependency", "--epilog", "--kill-on-invalid-dep", "--mem"),
    *("--parsable", "--time", "--nodes", "--ntasks-per-node", "--gpus-per-node"),
    *("--python", "--with"),
}
"""SLURM's, and those of uv."""
DIALECT = re.compile(
    r"\b(certif\w+|trust η|gives way|walk's|felt|spared|bears|crossing of Lemma|limit of the (?:next|single) step)\b"
)


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *kinds: str) -> list[str]:
    return [block["text"] for block in BLOCK.finditer(page.read_text(encoding="utf-8")) if block["kind"] in kinds]


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    """benchmarks/readme_blocks.py as a module."""
    path = ROOT / "benchmarks" / "readme_blocks.py"
    specification = importlib.util.spec_from_file_location("readme_blocks", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    before = list(sys.path)
    specification.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture(scope="module")
def files(generator: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that commands of the pages speak of, made once for all workers; each has a copy of its own."""
    temporary = tmp_path_factory.getbasetemp()
    made = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "made-for-pages"
    with Path(f"{made}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            begun = tmp_path_factory.mktemp("begun")
            generator.make_files(begun)
            begun.rename(made)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("pages") / "reader"))


def words(text: str) -> set[str]:
    """Of what is printed, without numbers, rulers and curves, which another processor may round otherwise."""
    return set(re.findall(r"[^\W\d_]{3,}", text))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=label)
def test_a_page_shows_what_its_commands_print(page: Path, generator: ModuleType, files: Path) -> None:
    if shutil.which("jq") is None and any(re.search(r"\bjq\b", block) for block in blocks(page, "console")):
        pytest.skip("a command of this page needs jq")
    outputs = generator.outputs([page], files)
    assert [command for command, lines in outputs.items() if not lines] == []
    text = generator.reprinted(page, outputs)
    printed = [block["text"] for block in BLOCK.finditer(text) if block["kind"] == "console"]
    for shown, now in zip(blocks(page, "console"), printed, strict=True):
        assert words(shown) == words(now), f"python benchmarks/readme_blocks.py --write {label(page)}\n{now}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=label)
def test_a_command_that_is_shown_without_output_succeeds(page: Path, generator: ModuleType, files: Path) -> None:
    """But for installing, for what the reader's shell holds, and for what is trusted."""
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks(page, "sh"))).splitlines()
    for line in lines:
        if line.startswith("fromage-diag ") and "$" not in line and " trust" not in line:
            printed = generator.on_terminal(f"{line} 2>&1; echo exit $?", files, {"TERM": "dumb"})
            assert printed.rstrip().endswith("exit 0"), printed


def last_loss(text: str) -> float:
    """Of what sample_checkpoints/tutorial.py printed."""
    return float(text.rsplit(maxsplit=1)[-1])


def test_the_tutorial_finds_its_layer_and_mends_it(files: Path) -> None:
    ends = {run: last_loss((files / f"{run}.txt").read_text(encoding="utf-8")) for run in ("run", "mended")}
    assert ends["mended"] < ends["run"] - 0.2  # as the page says
    blamed = {}
    for run in ends:
        command = [sys.executable, "-m", "fromage_cli", "check", run, "--json", "-q"]
        answer = json.loads(subprocess.run(command, cwd=files, capture_output=True, check=True).stdout)
        warnings = [finding for finding in answer["findings"] if finding["severity"] != "info"]
        blamed[run] = (answer["result"]["verdict"], [(each["code"], each["layer"]) for each in warnings])
    layer = "blocks.1.attention.input.weight"
    assert blamed == {"run": ("look", [("layer-out-of-line", layer)]), "mended": ("go", [])}


def test_the_tutorial_quotes_its_script_and_a_lower_rate_is_no_cure(tmp_path: Path) -> None:
    page, source = ROOT / "docs" / "tutorial.md", ROOT / "sample_checkpoints"
    text = (source / "tutorial.py").read_text(encoding="utf-8")
    (removed,) = re.findall(r"^-(.+\n)", "".join(blocks(page, "diff")), re.MULTILINE)
    assert all(text.count(quoted.strip()) == 1 for quoted in [removed, *blocks(page, "python")])
    for name in ("models.py", "text/coriolanus.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "tutorial.py").write_text(text.replace("lr=0.003", "lr=0.0005"), encoding="utf-8")
    command = [sys.executable, "tutorial.py", "low"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    faulty = last_loss(blocks(page, "console")[0])
    assert last_loss(printed) > faulty + 0.1, "the page says that the loss is worse by more than 0.1"


def test_the_readme_is_short_and_sets_up_twice() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES
    assert len([line for line in lines if line.startswith("python -m pip install ")]) == 2  # as .ci/run expects


def test_the_first_page_of_a_newcomer_is_one_screen() -> None:
    """That of a Hugging Face network, whose last line repeats the options; the prompt takes a line of 24."""
    shown = next(text for text in blocks(ROOT / "docs" / "getting-started.md", "console") if "--model hf" in text)
    command, *lines = shown.splitlines()
    assert command.startswith("$ fromage-diag breakdown my-run") and len(lines) <= 23, shown


def test_the_pictures_are_small_and_fetch_nothing() -> None:
    """Each stands on a page; what a picture refers to lies within it."""
    pictures = sorted((ROOT / "docs").glob("*.svg"))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    places = {place for page in pages for place in PICTURES.findall(page.read_text(encoding="utf-8"))}
    assert {picture.name for picture in pictures} == {place.removeprefix("docs/") for place in places}
    for picture in pictures:
        drawn = picture.read_text(encoding="utf-8")
        assert len(drawn.encode()) < PICTURE_BYTES
        assert "url(http" not in drawn
        assert all(place.startswith("#") for place in re.findall(r'href\s*=\s*"([^"]*)"', drawn))


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("[CS]*.md"))], ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_site_once() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(NAV.findall(settings)) == sorted(page.name for page in PAGES[1:])


@pytest.mark.parametrize("page", PAGES[1:], ids=label)
def test_a_page_of_the_site_leads_to_nothing_outside_of_it(page: Path) -> None:
    assert [link for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))) if link[:2] == ".."] == []


def test_the_tables_of_the_readme_stand_on_the_pages_of_the_site() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    for heading, page in (("What it answers", "index"), ("How it differs", "comparison")):
        rows = re.findall(r"(?m)^\|.*\|$", readme.partition(f"## {heading}\n")[2].partition("\n## ")[0])
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        assert len(rows) > 5 and "\n".join(rows) in text, f"docs/{page}.md"


def test_the_worked_numbers_of_the_theory_are_right() -> None:
    sessions = "\n".join(blocks(ROOT / "docs" / "theory.md", "pycon"))
    shown = doctest.DocTestParser().get_doctest(sessions, {}, "docs/theory.md", None, None)
    assert len(shown.examples) > 20
    assert doctest.DocTestRunner().run(shown).failed == 0


def anchors(page: Path) -> set[str]:
    """What GitHub makes of headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_readme_and_every_command_has_one() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert [label(page) for page in PAGES[1:] if label(page) not in linked] == []
    assert [name for name in COMMANDS if not (ROOT / "docs" / f"{name}.md").exists()] == []


@pytest.mark.parametrize("page", GUIDES, ids=label)
def test_a_flag_that_is_named_exists(page: Path) -> None:
    program: Any = build_program()
    options = [option for name in program.commands for option in program.command(name).params]
    options += program.params
    known = {"--help"}.union(*([*option.opts, *option.secondary_opts] for option in options))
    text = "\n".join(line for line in page.read_text(encoding="utf-8").splitlines() if "pip install" not in line)
    assert set(FLAG.findall(text)) - known - FLAGS_OF_OTHERS == set()


def sentences(page: Path) -> Iterator[str]:
    """Of paragraphs, list items and cells of tables; what stands in code counts as one word."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"<[^>]+>", "", re.sub(r"`[^`\n]+`", "code", re.sub(r"\]\([^)]*\)", "]", text)))
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-|#]|\d+\.) ?)|(?<!\\)\|", text)
    for part in parts:
        yield from re.split(r"[.!?](?:\*\*)?(?=\s|$)|[:;](?=\s*$)", part.strip())


@pytest.mark.parametrize("page", GUIDES, ids=label)
def test_sentences_are_short_and_in_everyday_words(page: Path) -> None:
    assert [each for each in sentences(page) if len(re.findall(r"[^\W_]+", each)) > SENTENCE_WORDS] == []
    assert DIALECT.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_scripts_that_are_shown_can_be_read(page: Path) -> None:
    for script in blocks(page, "python"):
        compile(script, label(page), "exec")
    for script in blocks(page, "bash", "sh"):
        read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert read.returncode == 0, read.stderr


def test_the_example_of_the_readme_is_short_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (script,) = blocks(ROOT / "README.md", "python")
    assert len(script.splitlines()) <= 8
    exec(compile(script, "README.md", "exec"), {})
    assert (tmp_path / "my-bundle" / "bundle.json").is_file()
    assert "How far one step may move each matrix" in capsys.readouterr().out


def test_the_page_of_python_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for callbacks of a library that is not installed; the first block is short."""
    monkeypatch.chdir(tmp_path)
    scripts = blocks(ROOT / "docs" / "python.md", "python")
    assert len(scripts[0].splitlines()) <= 8
    names: dict[str, Any] = {}
    for script in scripts:
        needed = re.search(r"fromage_cli\.callbacks\.(\w+)", script)
        if needed is None or importlib.util.find_spec(needed[1]) is not None:
            exec(compile(script, "docs/python.md", "exec"), names)
    assert (tmp_path / "bundles" / "step-000000").is_dir() and (tmp_path / "picture.svg").is_file()
