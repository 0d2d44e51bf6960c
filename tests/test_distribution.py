"""What is published: pages made from the code, the changelog's version, and what wheel, sdist and site must hold."""

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from fromage_cli import __version__, api, optim
from fromage_cli.cli import build_program
from fromage_cli.terminal.flags import options

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "distribution" / "fromage-diag.1"
TREE = ["fromage_cli/__init__.py", "fromage_cli/py.typed", "tests/test_a.py", "pyproject.toml", ".github/ci.yml"]
WHEEL = [
    *("fromage_cli/__init__.py", "fromage_cli/py.typed", "fromage_diag-0.1.0.data/data/share/man/man1/fromage-diag.1"),
    *("fromage_diag-0.1.0.dist-info/licenses/LICENSE", "fromage_diag-0.1.0.dist-info/entry_points.txt"),
]


def script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "distribution" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_manual_page_is_made_from_the_help_of_this_program() -> None:
    made = script("man_page").man_page()
    assert PAGE.read_text(encoding="utf-8") == made, "python distribution/man_page.py --write"


def test_the_pages_of_commands_and_functions_are_made_from_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "distribution"))
    for path, page in script("reference_pages").PAGES.items():
        assert path.read_text(encoding="utf-8") == page(), "python distribution/reference_pages.py --write"


def test_the_page_of_functions_has_every_public_one() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    functions = [name for name, value in vars(api).items() if inspect.isfunction(value) and not name.startswith("_")]
    names = [f"api.{name}" for name in functions] + [f"optim.{name}" for name in optim.__all__]
    callbacks = [
        path for path in (ROOT / "fromage_cli/callbacks").glob("*.py") if "class BundleCallback" in path.read_text()
    ]
    names += [f"callbacks.{path.stem}.BundleCallback" for path in callbacks]
    assert [name for name in names if f"### {name}\n" not in page] == []


def test_the_manual_page_has_every_command_and_every_option() -> None:
    page = PAGE.read_text(encoding="utf-8").replace(r"\-", "-")
    program = build_program()
    for name in program.commands:
        assert f'.SH "FROMAGE-DIAG {name.upper()}"' in page
        for option in options(program.command(name)):
            if option.name != "help":
                assert max(option.opts, key=len) in page, (name, option.name)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_page_is_right_for_its_reader() -> None:
    arguments = ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", str(PAGE)]
    read = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert read.returncode == 0 and read.stderr == "" and "safe" in read.stdout


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d|unreleased)$", text, re.MULTILINE)
    assert headings[0][0] == __version__
    assert len(headings) == len(re.findall(r"^## ", text, re.MULTILINE))
    assert all(date != "unreleased" for _, date in headings[1:])


def test_every_part_of_the_tree_is_in_the_source_distribution() -> None:
    """Whatever the tree holds at its top is the package, or is named."""
    rules = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    grafted = {line.split()[1] for line in rules if line.startswith("graft ")}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("this is no checkout")
    folders = {name.split("/")[0] for name in tracked.stdout.splitlines() if "/" in name}
    assert folders == grafted | {"fromage_cli", ".github"}


def test_a_wheel_without_a_fault_and_an_sdist_without_a_fault() -> None:
    checks = script("check_built")
    assert checks.wheel_faults(WHEEL, TREE) == []
    assert checks.sdist_faults([f"fromage_diag-0.1.0/{name}" for name in TREE[:-1]], TREE) == []


@pytest.mark.parametrize("lacking", range(len(WHEEL)))
def test_a_wheel_that_lacks_a_file_is_found(lacking: int) -> None:
    assert script("check_built").wheel_faults(WHEEL[:lacking] + WHEEL[lacking + 1 :], TREE)


@pytest.mark.parametrize("foreign", ["tests/test_a.py", "benchmarks/a.py", "fromage_cli/a.pyc"])
def test_a_wheel_with_a_foreign_file_is_found(foreign: str) -> None:
    assert script("check_built").wheel_faults([*WHEEL, foreign], TREE) == [f"the wheel has {foreign}"]


def test_an_sdist_without_tests_is_found() -> None:
    assert script("check_built").sdist_faults(["fromage_diag-0.1.0/pyproject.toml"], TREE) == [
        f"the sdist lacks {name}" for name in sorted(TREE[:3])
    ]


SITE = {
    "index.html": '<link rel="stylesheet" href="a/style.css"><a href="other.html#there">x</a><a href="https://e.org">y</a>',
    "other.html": '<h2 id="there">There</h2><img src="a/picture.png"><a href="/index.html">z</a>',
    "a/style.css": "",
    "a/picture.png": "",
}


def faults_of_a_site(directory: Path, files: dict[str, str]) -> list[str]:
    (directory / "a").mkdir()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    found: list[str] = script("check_site").faults(directory)
    return found


def test_a_site_without_a_fault(tmp_path: Path) -> None:
    assert faults_of_a_site(tmp_path, SITE) == []


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="gone.html">x</a>', "leads to gone.html, which is not there"),
        ('<a href="index.html#gone">x</a>', "leads to index.html#gone, a heading that is not there"),
        ('<a href="#gone">x</a>', "leads to #gone, a heading that is not there"),
        ('<img src="gone.png">', "leads to gone.png, which is not there"),
        ('<img srcset="https://e.org/a.png 2x">', "fetches https://e.org/a.png"),
        ('<script src="//e.org/a.js"></script>', "fetches //e.org/a.js"),
        ('<link rel="preconnect" href="https://fonts.e.org">', "fetches https://fonts.e.org"),
    ],
)
def test_a_fault_of_a_site_is_found(page: str, fault: str, tmp_path: Path) -> None:
    assert faults_of_a_site(tmp_path, SITE | {"other.html": f'<h2 id="there">x</h2>{page}'}) == [f"other.html {fault}"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_for_each_shell(shell: str, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    code = "from fromage_cli.cli import main; main()"
    arguments = [sys.executable, "-c", code, "--show-completion", shell]
    shown = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0 and f"complete_{shell}" in shown.stdout and "fromage-diag" in shown.stdout


@pytest.mark.parametrize(
    ("words", "found"), [("bre", "breakdown"), ("breakdown --et", "--eta"), ("norms --op", "--optimizer")]
)
def test_commands_and_options_are_completed(words: str, found: str, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    line = f"fromage-diag {words}"
    environment |= {"_FROMAGE_DIAG_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    code = "from fromage_cli.cli import main; main()"
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and found in done.stdout.split()


def test_completion_that_was_installed_works_in_a_new_shell(tmp_path: Path) -> None:
    program = tmp_path / "fromage-diag"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fromage_cli "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    arguments = [str(program), "--install-completion", "bash"]
    installed = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert installed.returncode == 0 and (tmp_path / ".bashrc").is_file(), installed.stderr
    lines = """
    . ~/.bashrc
    COMP_WORDS=(fromage-diag brea) COMP_CWORD=1
    "$(complete -p fromage-diag | sed "s/.*-F \\([^ ]*\\).*/\\1/")" fromage-diag
    echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", lines], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["breakdown"], done.stderr


def test_the_container_takes_what_there_is() -> None:
    text = (ROOT / "distribution" / "Containerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"'/source\[(.+?)\]'", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "-c /source/constraints.txt" in text and "not built" in text
