import sys
from pathlib import Path

import pytest

from fromage_cli.errors import InputError, MismatchError, UnsafeError, UsageError
from fromage_cli.problem.user_code.named_code import named_code
from fromage_cli.problem.user_code.specification import load_named, parse_specification


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize(
    ("text", "module", "name"),
    [
        ("pkg.module:factory", "pkg.module", "factory"),
        ("a/b.py:make", "a/b.py", "make"),
        ("b.py:Outer.make", "b.py", "Outer.make"),
        ("dir:with:colons/b.py:make", "dir:with:colons/b.py", "make"),
    ],
)
def test_both_forms_are_taken_apart(text: str, module: str, name: str) -> None:
    specification = parse_specification(text)
    assert specification is not None
    assert (specification.module, specification.name) == (module, name)


@pytest.mark.parametrize("text", ["auto", "file.py", "file.py:", ":name", "s3://bucket/file.pt", "a b:c", "file.py:1x"])
def test_other_texts_are_no_code(text: str) -> None:
    assert parse_specification(text) is None


def test_a_file_finds_its_neighbours_and_is_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "neighbour_of_file.py").write_text("value = 7\n")
    (tmp_path / "sub" / "file.py").write_text(
        "import neighbour_of_file\nclass Outer:\n    inner = neighbour_of_file.value\nmade = []\n"
    )
    assert load_named("sub/file.py:Outer.inner", "--model") == 7
    assert load_named("sub/file.py:made", "--model") is load_named(str(tmp_path / "sub/file.py") + ":made", "--batch")


def test_a_file_has_the_name_that_its_neighbours_import_it_by(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "networks_here.py").write_text("class Net: pass\nimport imports_it\n")
        (tmp_path / folder / "imports_it.py").write_text("import networks_here\n")
        (tmp_path / folder / "this.py").write_text("class Net: pass\n")
    named = load_named("one/networks_here.py:Net", "--model")
    assert named.__module__ == "networks_here"
    assert load_named("one/imports_it.py:networks_here", "--batch").Net is named
    assert load_named("other/networks_here.py:Net", "--model") is not named
    assert load_named("one/this.py:Net", "--model").__module__ != "this"  # of the standard library


POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def row(index):
    return [float(index), 1.0]

def rows():
    import torch

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return {"x": torch.tensor(list(pool.map(row, range(3))))}
"""


def test_workers_that_start_afresh_find_a_file_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "rows_of_workers.py").write_text(POOL)
    rows = load_named("rows_of_workers.py:rows", "--batch")
    with named_code("calling it"):
        assert rows()["x"].tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]


def test_a_module_is_found_in_the_working_directory_but_hides_nothing_installed(tmp_path: Path) -> None:
    (tmp_path / "only_lying_here.py").write_text("value = 3\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('must not run')\n")
    assert load_named("only_lying_here:value", "--model") == 3
    assert callable(load_named("colorsys:rgb_to_hsv", "--model"))


def test_prints_of_the_module_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "talks.py").write_text("print('hello')\nvalue = 1\n")
    load_named("talks.py:value", "--model")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_text_of_neither_form_is_refused_with_both_forms() -> None:
    with pytest.raises(UsageError, match=r"pkg\.module:name or path/file\.py:name") as caught:
        load_named("file.py", "--model")
    assert "file.py:NAME" in caught.value.hint


def test_code_that_may_not_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("raise RuntimeError('ran')\n")
    with pytest.raises(UnsafeError, match=r"--model 'file.py:make' would run code"):
        load_named("file.py:make", "--model", allow_code=False)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"no file 'nowhere.py'"):
        load_named("nowhere.py:make", "--model")


def test_a_missing_module_is_named() -> None:
    with pytest.raises(InputError, match="no module 'no_such_package'") as caught:
        load_named("no_such_package.module:make", "--model")
    assert "path/file.py:make" in caught.value.hint


def test_a_missing_name_comes_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("def make_model(): ...\n")
    with pytest.raises(InputError, match="has no 'make_modle'") as caught:
        load_named("file.py:make_modle", "--model")
    assert "make_model" in caught.value.hint


def test_an_import_that_fails_says_what_and_where(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("x = 1\nraise ValueError('bad data')\n")
    with pytest.raises(MismatchError, match=r"ValueError while importing file.py \(.*file.py:2\): bad data"):
        load_named("file.py:x", "--model")
    with pytest.raises(MismatchError):  # a half-imported module is not kept
        load_named("file.py:x", "--model")


def test_a_dependency_that_is_missing_in_the_module_is_its_failure(tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_dependency\n")
    with pytest.raises(MismatchError, match=r"ModuleNotFoundError while importing needs_more .*no_such_dependency"):
        load_named("needs_more:x", "--model")


def test_a_syntax_error_says_where(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("ok = 1\ndef broken(:\n")
    with pytest.raises(MismatchError, match=r"SyntaxError while importing file.py \(.*file.py:2\)"):
        load_named("file.py:ok", "--model")


def test_a_module_that_exits_does_not_end_the_program(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(MismatchError, match="SystemExit while importing"):
        load_named("file.py:x", "--model")


def test_a_module_that_finds_its_names_late_may_fail_at_that(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("def __getattr__(name):\n    raise ImportError('needs more')\n")
    with pytest.raises(MismatchError, match=r"ImportError while looking for x in late.py \(.*late.py:2\): needs more"):
        load_named("late.py:x", "--model")
