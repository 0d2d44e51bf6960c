import json
import os
import re
import sys
from types import ModuleType

import pytest

from fromage_cli.cli import build_program, main
from fromage_cli.diagnostics import COMMANDS
from fromage_cli.own_commands import OWN_COMMANDS
from fromage_cli.terminal.flags import options
from fromage_cli.terminal.trust import CODE_FLAGS, code_files, specifications

CODE = "model = 'net.py:build'\nbatch = 'batch.npz'\n[other-one]\ntop = 1\n[measure]\nloss = 'pkg.losses:loss'\n"


@pytest.fixture
def project(clean):
    """A configuration that names code in a file and in a package, one directory below the working directory."""
    root = clean / "project"
    (root / "pkg").mkdir(parents=True)
    (root / "inner").mkdir()
    for name in ("net.py", "pkg/__init__.py", "pkg/losses.py"):
        (root / name).write_text("value = 1\n")
    (root / "fromage.toml").write_text(CODE)
    return root


def test_code_that_a_configuration_names_waits_for_a_yes(call, fake, project, monkeypatch):
    for directory, line in ((project, "fromage-diag trust ."), (project / "inner", f"fromage-diag trust {project}")):
        monkeypatch.chdir(directory)
        outcome = call("measure")
        assert outcome.code == 4 and fake.SEEN == {}
        assert "model = " in outcome.err and "net.py:build" in outcome.err and "loss = pkg.losses:loss" in outcome.err
        assert outcome.err.splitlines()[-1].strip() == line
        assert "--trust" in outcome.err and len(outcome.err.splitlines()) <= 6
    assert json.loads(call("measure", "--json").out)["error"]["code"] == "unsafe"
    assert call("measure", "--trust").code == 0
    assert call("measure").code == 4
    assert call("trust", str(project)).code == 0
    for directory in (project, project / "inner"):
        monkeypatch.chdir(directory)
        assert call("measure").code == 0
        assert fake.SEEN["batch"].loss == "pkg.losses:loss"


def test_what_the_command_line_or_the_environment_names_needs_no_yes(call, fake, project, monkeypatch):
    monkeypatch.chdir(project)
    assert call("measure", "--model", "hf", "--loss", "mse").code == 0
    monkeypatch.setenv("FROMAGE_DIAG_MODEL", "own.py:build")
    assert call("measure", "--loss", "mse").code == 0
    assert fake.SEEN["model"].model == "own.py:build"
    assert call("other-one", "x", "--fail-on", "never", "--json").code == 0


def flags_that_take_code(command):
    """The command's options of which the help says that they take code."""
    taking = [
        option
        for option in options(build_program().command(command))
        if option.metavar == "SPEC" or re.search(r"\.py\b|\bmodule\b", option.help)
    ]
    return [max(option.opts, key=len).removeprefix("--") for option in taking]


@pytest.mark.parametrize("command", [*COMMANDS, *OWN_COMMANDS])
def test_every_option_that_takes_code_waits_for_a_yes(capsys, project, monkeypatch, command):
    monkeypatch.chdir(project / "inner")
    for flag in flags_that_take_code(command):
        for place, code in (("", "pkg.losses:loss"), (f"[{command}]\n", "net.py:build")):
            (project / "fromage.toml").write_text(f"{place}{flag} = '{code}'\n")
            with pytest.raises(SystemExit) as exit:
                main([command])
            assert exit.value.code == 4, flag
            whole = f"{project}/{code}" if ".py" in code else code
            assert f"{flag} = {whole}" in capsys.readouterr().err.replace("\n", "")


def test_flags_that_may_name_code_are_those_that_take_it():
    assert {flag for command in COMMANDS for flag in flags_that_take_code(command)} == {*CODE_FLAGS}


def test_data_and_words_need_no_yes():
    data = {"batch": "rows.npz", "val-batch": "a:b.npz", "loss": "mse", "val-loss": "mse", "model": "hf"}
    assert data.keys() == {*CODE_FLAGS}
    assert specifications(data) == []


@pytest.mark.parametrize("changed", ["fromage.toml", "net.py", "pkg/__init__.py", "pkg/losses.py"])
def test_another_content_takes_another_yes(call, project, monkeypatch, changed):
    monkeypatch.chdir(project)
    call("trust", ".")
    before = (project / changed).read_text()
    (project / changed).write_text(before + "# changed\n")
    outcome = call("measure")
    assert outcome.code == 4 and "not what you trusted" in outcome.err
    (project / changed).write_text(before)
    assert call("measure").code == 0
    (project / changed).write_text(before + "# again\n")
    call("trust", ".")
    assert call("measure").code == 0
    (project / changed).write_text(before)
    assert call("measure").code == 4


def test_another_place_takes_another_yes(call, project, monkeypatch):
    call("trust", str(project))
    (project.parent / "door").symlink_to(project)
    monkeypatch.chdir(project.parent / "door")
    assert call("measure").code == 0
    project.rename(project.parent / "moved")
    monkeypatch.chdir(project.parent / "moved")
    assert call("measure").code == 4


def test_code_in_a_working_directory_does_not_stand_in_for_what_was_trusted(call, project, monkeypatch):
    call("trust", str(project))
    monkeypatch.chdir(project / "inner")
    (project / "inner" / "pkg").mkdir()
    (project / "inner" / "pkg" / "losses.py").write_text("raise SystemExit\n")
    assert call("measure").code == 4
    (project / "inner" / "pkg" / "losses.py").unlink()
    (project / "inner" / "pkg").rmdir()
    (project / "net.py").unlink()
    (project / "inner" / "net.py").write_text("raise SystemExit\n")
    assert call("measure").code == 4


def test_a_file_that_is_written_as_an_address_is_the_one_beside_the_configuration(call, fake, project, monkeypatch):
    (project / "fromage.toml").write_text("model = 'x://net.py:build'\n")
    call("trust", str(project))
    monkeypatch.chdir(project / "inner")
    call("measure")
    assert fake.SEEN["model"].model == f"{project}/x:/net.py:build"


def test_a_link_to_a_configuration_counts_where_it_lies(call, project, monkeypatch):
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "net.py").write_text("raise SystemExit\n")
    (elsewhere / "fromage.toml").symlink_to(project / "fromage.toml")
    call("trust", str(project))
    monkeypatch.chdir(elsewhere)
    assert call("measure").code == 4


def test_a_file_beside_a_checkpoint_is_never_covered(call, fake, project, monkeypatch):
    call("trust", str(project))
    monkeypatch.chdir(project)
    (project / "model.pt").touch()
    monkeypatch.setenv("HOME", str(project.parent))
    names = ("model.pt", f"file://{project}/model.pt", "../project/*.pt", "~/project/model.pt", f"local://{project}")
    for name in names:
        assert call("measure", name).code == 0
        assert fake.SEEN["model"].model is None, name
    monkeypatch.setenv("FROMAGE_DIAG_OPTIMIZER_STATE", "model.pt")
    assert call("measure").code == 0
    assert fake.SEEN["model"].model is None


@pytest.mark.parametrize("line", ["output = '../x.json'", "output = '/x.json'", "output = '~/x.json'", "force = true"])
def test_files_outside_of_the_project_are_not_written_without_a_yes(call, clean, line):
    (clean / "project").mkdir()
    os.chdir(clean / "project")
    (clean / "project" / "fromage.toml").write_text(line)
    assert call("measure").code == 4
    (clean / "project" / "fromage.toml").write_text("output = 'x.json'\nforce = false\n")
    assert call("measure").code == 0
    assert (clean / "project" / "x.json").is_file()


def test_no_place_that_moves_with_the_working_directory_is_asked(call, project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CONFIG_HOME", "configuration")
    assert call("trust", ".").code == 3
    assert call("measure").code == 3


def test_modules_are_found_without_running_any(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder / "pkg" / "sub").mkdir(parents=True)
        (tmp_path / folder / "pkg" / "__init__.py").write_text("raise SystemExit")
        (tmp_path / folder / "pkg" / "sub" / "net.py").touch()
    named = specifications({"model": "pkg.sub.net:build", "batch": "a:b.npz", "loss": "json.decoder:scan", "seed": 1})
    assert [one.text for one in named] == ["pkg.sub.net:build", "json.decoder:scan"]
    found = code_files(named, tmp_path / "b", tmp_path / "a")
    assert found[:2] == [tmp_path / "a/pkg/__init__.py", tmp_path / "a/pkg/sub/net.py"]
    assert [path.name for path in found[2:]] == ["__init__.py", "decoder.py"]
    monkeypatch.setitem(sys.modules, "without_specification", ModuleType("without_specification"))
    named = specifications({"model": "without_specification:x", "loss": "nowhere.at.all:x"})
    assert code_files(named, tmp_path, tmp_path) == []
    assert "pkg" not in sys.modules
