"""Files in the working directory that are named as libraries, or configure one: nothing takes them for those."""

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.cli import main
from fromage_cli.problem.user_code.specification import load_named

ROOT = Path(__file__).parents[2]
NETWORK = """
import sys, torch
def build():
    import neighbour
    return torch.nn.Linear(4, 3)
def batch():
    assert FOLDER in sys.path
    return {"x": torch.ones(8, 4), "y": torch.arange(8) % 3}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


class Onlooker:
    """Notes which libraries are looked for while a folder stands on the import path."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = str(folder), []

    def find_spec(self, name, path=None, target=None):
        if path is None and self.folder in sys.path:
            self.seen.append(name)


@pytest.mark.parametrize("form", ["own_package.net:{}", "own_package/net.py:{}"])
def test_libraries_are_not_looked_for_where_the_users_code_lies(place, monkeypatch, capsys, form):
    package = place / "own_package"
    package.mkdir()
    folder = place if form.startswith("own_package.") else package
    (package / "net.py").write_text(NETWORK.replace("FOLDER", repr(str(folder))))
    (folder / "neighbour.py").touch()
    onlooker = Onlooker(folder)
    monkeypatch.setattr(sys, "meta_path", [onlooker, *sys.meta_path])
    before = set(sys.modules)
    words = ["sharpness", "--model", form.format("build"), "--batch", form.format("batch"), "--optimizer", "sgd"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--lr", "0.1", "--max-iterations", "3", "-q"])
    assert ended.value.code in (0, 6), capsys.readouterr().err
    assert str(folder) not in sys.path
    assert {name.partition(".")[0] for name in onlooker.seen} <= {"own_package", "neighbour", *sys.builtin_module_names}
    for name in set(sys.modules) - before:
        if name.startswith(("own_package", "neighbour", "fromage_named")):
            del sys.modules[name]


def test_the_package_run_as_a_module_finds_nothing_in_the_working_directory(place, canary):
    run = f"import os\nos.system('touch {canary}')\n"
    for name in ("torch.py", "typer.py", "rich.py", "numpy.py", "fsspec.py", "evil.py", "sitecustomise.py"):
        (place / name).write_text(run)
    (place / "evil-1.0.dist-info").mkdir()
    (place / "evil-1.0.dist-info" / "entry_points.txt").write_text(
        "[torch.backends]\nevil = evil:load\n[fsspec.specs]\nevil = evil:Files\n"
    )
    (place / "evil-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    save_file({"w": torch.ones(2, 2)}, place / "x.safetensors")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "fromage_cli", "inspect", "x.safetensors"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not canary.exists()


def test_a_matplotlibrc_in_the_working_directory_is_not_read(place):
    (place / "matplotlibrc").write_text("axes.prop_cycle: cycler('color', ['r'] * 300_000_000)\nlines.linewidth: 77\n")
    code = (
        "from fromage_cli.terminal.pictures import _require_matplotlib\n_require_matplotlib()\n"
        "import matplotlib, os\nassert matplotlib.rcParams['lines.linewidth'] != 77\n"
        f"assert os.getcwd() == {str(place)!r}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@pytest.mark.parametrize(
    "mode", [py_compile.PycInvalidationMode.UNCHECKED_HASH, py_compile.PycInvalidationMode.TIMESTAMP]
)
def test_compiled_code_of_another_source_is_not_run(place, mode):
    source = place / "compiled_elsewhere.py"
    source.write_text("value = 'other!'\n")
    py_compile.compile(str(source), invalidation_mode=mode, doraise=True)
    times = (source.stat().st_atime_ns, source.stat().st_mtime_ns)
    source.write_text("value = 'this!!'\n")
    os.utime(source, ns=times)
    assert load_named("compiled_elsewhere.py:value", "--model") == "this!!"
