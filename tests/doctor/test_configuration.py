from pathlib import Path

import pytest

from fromage_cli.doctor import configuration
from fromage_cli.doctor.result import Project
from fromage_cli.errors import UsageError
from fromage_cli.terminal.flags import CommandFlags
from fromage_cli.terminal.project import ProjectConfiguration
from fromage_cli.terminal.trust import remember

NOTHING = ProjectConfiguration()


def found_in(directory: Path, text: str) -> ProjectConfiguration:
    (directory / "fromage.toml").write_text(text)
    found = configuration.find_configuration(directory)
    assert isinstance(found, ProjectConfiguration)
    return found


def test_values_of_the_environment_are_in_effect(flags: CommandFlags) -> None:
    environment = {"FROMAGE_DIAG_DTYPE": "float64", "HOME": "/root", "FROMAGE_DIAG_MODE": ""}
    first, second = configuration.settings(NOTHING, environment, flags)
    assert (first.name, first.value, first.origin, first.where) == (
        "dtype",
        "float64",
        "environment",
        "FROMAGE_DIAG_DTYPE",
    )
    assert first.in_effect and not first.reason
    assert (second.name, second.in_effect, second.reason) == ("mode", False, "it is empty")


@pytest.mark.parametrize(
    ("name", "words", "unknown"),
    [
        ("FROMAGE_DIAG_DTYP", "Nearest: FROMAGE_DIAG_DTYPE.", True),
        ("FROMAGE_DIAG_FORCE", "on the command line alone", False),
        ("FROMAGE_DIAG_VERDICT", "--on-fail", False),
    ],
)
def test_a_variable_without_effect_says_why(name: str, words: str, unknown: bool, flags: CommandFlags) -> None:
    (found,) = configuration.settings(NOTHING, {name: "x"}, flags)
    assert not found.in_effect and words in found.reason and found.unknown is unknown and found.name == name


def test_keys_of_the_project_say_their_table_and_yield_to_the_environment(
    flags: CommandFlags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    general = 'dtype = "float64"\nbatch = "a.npz"\nactivation = "relu"\n'
    tables = '[breakdown]\neta = "0.1"\nbatch = "b.npz"\n[[rule]]\ncode = "x"\n'
    found = found_in(tmp_path, general + tables)
    settings = configuration.settings(found, {"FROMAGE_DIAG_BATCH": "c.npz"}, flags)
    told = [(one.name, one.value, one.where, one.in_effect) for one in settings]
    assert told == [
        ("batch", "c.npz", "FROMAGE_DIAG_BATCH", True),
        ("dtype", "float64", "fromage.toml", True),
        ("batch", "a.npz", "fromage.toml", False),
        ("activation", "relu", "fromage.toml", True),
        ("eta", "0.1", "fromage.toml [breakdown]", True),
        ("batch", "b.npz", "fromage.toml [breakdown]", False),
    ]
    assert settings[2].reason == "FROMAGE_DIAG_BATCH goes first"


def test_a_key_that_no_command_has_is_named_with_the_nearest(flags: CommandFlags, tmp_path: Path) -> None:
    found = found_in(tmp_path, 'weight-decai = "0.1"\n')
    (setting,) = configuration.settings(found, {}, flags)
    assert setting.unknown and "Nearest: weight-decay." in setting.reason
    (fault,) = configuration.faults(found, {}, flags)
    assert "weight-decai" in fault and "Correct it there." in fault


def test_code_is_trusted_after_a_yes_until_it_changes(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    found = found_in(tmp_path, 'model = "net.py:build"\n')
    told = Project(str(tmp_path / "fromage.toml"), "not trusted", ("net.py:build",))
    assert configuration.project(found, tmp_path) == told
    assert found.source is not None
    remember(found.source, found.values)
    trusted = configuration.project(found, tmp_path)
    assert trusted is not None and trusted.trust == "trusted"
    (tmp_path / "net.py").write_text("changed = True")
    assert configuration.project(found, tmp_path) == told


def test_in_a_directory_that_is_gone_nothing_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert configuration.find_configuration(Path()) == NOTHING


def test_without_a_place_of_the_users_nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = found_in(tmp_path, 'model = "net.py:build"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    told = configuration.project(found, tmp_path)
    assert told is not None and told.trust == "not trusted"


def test_a_project_without_code_needs_no_trust(tmp_path: Path) -> None:
    found = configuration.project(found_in(tmp_path, 'dtype = "float64"\n'), tmp_path)
    assert found is not None and (found.trust, found.code) == ("names no code", ())
    assert configuration.project(NOTHING, tmp_path) is None


def test_a_file_that_cannot_be_read_is_a_fault(flags: CommandFlags, tmp_path: Path) -> None:
    (tmp_path / "fromage.toml").write_text("= broken")
    found = configuration.find_configuration(tmp_path)
    assert isinstance(found, UsageError)
    (fault,) = configuration.faults(found, {}, flags)
    assert "fromage.toml" in fault


def test_a_value_that_commands_refuse_is_one_fault(flags: CommandFlags) -> None:
    (fault,) = configuration.faults(NOTHING, {"FROMAGE_DIAG_INCLUDE": "not json"}, flags)
    assert fault.startswith("FROMAGE_DIAG_INCLUDE: 'not json' is not a JSON array.")
    assert configuration.faults(NOTHING, {"FROMAGE_DIAG_DTYPE": "float64"}, flags) == ()


def test_passwords_in_urls_are_not_shown(flags: CommandFlags, tmp_path: Path) -> None:
    found = found_in(tmp_path, 'mlflow = "https://me:secret@host/path?sig=hidden"\n')
    environment = {"FROMAGE_DIAG_BATCH": "https://me:secret@host/b.npz"}
    settings = configuration.settings(found, environment, flags)
    assert [one.value for one in settings] == ["https://host/b.npz", "https://host/path"]
