import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from fromage_cli.doctor import dependencies
from fromage_cli.doctor.dependencies import EXTRAS, NEEDED, extras, versions
from fromage_cli.missing import Missing, Why

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_DEVELOPMENT = {"bench", "docs", "fuzz", "samples", "test"}


def test_packages_and_their_oldest_versions_are_those_of_the_project() -> None:
    told = {f"{name}>={least}" for name, (_, least, _) in NEEDED.items()}
    assert told == set(PROJECT["dependencies"])


def test_extras_are_those_of_the_project_that_users_need() -> None:
    offered = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(offered) - FOR_DEVELOPMENT
    for name, (_, packages) in EXTRAS.items():
        (first,) = (re.split(r"[\[>=]", requirement)[0] for requirement in offered[name])
        assert first == next(iter(packages.values()))


def test_what_is_installed_has_the_version_that_it_says() -> None:
    found = {one.name: one.version for one in versions()}
    assert found["numpy"] == metadata.version("numpy") and found["rich"] == metadata.version("rich")
    assert all(one.recent_enough for one in versions())


def test_an_extra_that_is_missing_has_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dependencies.EXTRAS, "plot", ("--plot", {"no_such_module": "matplotlib"}))
    monkeypatch.setitem(dependencies.EXTRAS, "hf", ("--model hf", {"numpy": "no-such-package"}))
    found = {one.name: one for one in extras()}
    assert isinstance(found["plot"].version, Missing) and found["plot"].version.code is Why.NOT_INSTALLED
    assert found["plot"].install == "python -m pip install 'fromage-diag[plot]'"
    assert isinstance(found["hf"].version, Missing) and "no-such-package" in found["hf"].version.words


def test_of_two_packages_for_one_extra_the_one_that_is_there_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"no_such_module": "nothing", "numpy": "numpy"}
    monkeypatch.setitem(dependencies.EXTRAS, "lightning", ("a callback", packages))
    found = {one.name: one.version for one in extras()}
    assert found["lightning"] == metadata.version("numpy")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "it is not installed"),
        ("raise ImportError('libmpi.so.40: cannot open')", "ImportError: libmpi.so.40: cannot open"),
        ("raise OSError('libcudart.so.12')", "OSError: libcudart.so.12"),
        ("import no_such_part", "No module named 'no_such_part'"),
        ("", "is another module of that name"),
        ("raise RuntimeError", "RuntimeError: "),
    ],
)
def test_a_package_that_cannot_be_imported_says_why(
    source: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is not None:
        (tmp_path / "broken_one.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(dependencies, "NEEDED", {"broken": ("broken_one", "1.0", "Tensor")})
    (found,) = versions()
    assert isinstance(found.version, Missing) and words in found.version.words and not found.recent_enough
    sys.modules.pop("broken_one", None)


@pytest.mark.parametrize(
    ("version", "enough"), [("2.9.1", False), ("2.10", True), ("2.10.0+cpu", True), ("3.0rc1", True), ("10.0", True)]
)
def test_versions_are_compared_as_numbers(
    version: str, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_package.py").write_text(f"__version__, Tensor = {version!r}, 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(dependencies, "NEEDED", {"some": ("some_package", "2.10", "Tensor")})
    (found,) = versions()
    assert (found.version, found.recent_enough) == (version, enough)
    sys.modules.pop("some_package", None)
