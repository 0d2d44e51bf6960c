import time
from pathlib import Path

import pytest

from fromage_cli.configuration_file import ConfigurationTable, read_configuration
from fromage_cli.errors import UsageError


def read(folder: Path, text: str, name: str = "fromage.toml") -> ConfigurationTable | None:
    (folder / name).write_text(text)
    return read_configuration(folder / name)


def test_keys_have_one_spelling_except_the_names_of_a_factorys_arguments(tmp_path: Path) -> None:
    text = "time_limit = 3\n[suggest_lr]\nlearning_rate = 0.1\n[model_arg]\nlearning_rate = 2\n"
    assert read(tmp_path, text) == ConfigurationTable(
        {"time-limit": 3, "suggest-lr": {"lr": 0.1}, "model-arg": {"learning_rate": 2}}
    )


def test_the_table_counts_in_either_file(tmp_path: Path) -> None:
    text = "name = 3\n[tool.fromage-diag]\nseed = 1\n[tool.other]\nx = 1\n"
    assert read(tmp_path, text) == ConfigurationTable({"seed": 1}, outside=("name",))
    assert read(tmp_path, text, "pyproject.toml") == ConfigurationTable({"seed": 1})
    assert read(tmp_path, "[tool.other]\nx = 1\n", "pyproject.toml") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool]\nfromage-diag = 3", "not a table"),
        ("x = " + "[" * 20_000, "not valid TOML"),
        ("#" * 1_000_001, "larger than 1000000 bytes"),
        ("lr = 1\nlearning_rate = 2", "'learning_rate'"),
        ("a." * 20_000 + "a = 1", "thousands of dots"),
        ("[" + "a." * 20_000 + "a]", "thousands of dots"),
        ("x = {" + "'a' . " * 20_000 + "a = 1}", "thousands of dots"),
        ("a." * 500 + "a = 1", "50 deep"),
        ("x = " + "[" * 60 + "]" * 60, "50 deep"),
        ("x = " + "1" * 5000, "not valid TOML"),
        ("x = 0x" + "f" * 5000, "more than 64 bits"),
        ("x = [1" + "0" * 20 + "]", "more than 64 bits"),
    ],
)
def test_what_is_no_configuration_is_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError, match=words) as caught:
        read(tmp_path, text)
    assert time.process_time() - began < 1
    assert "fromage.toml" in caught.value.message and caught.value.hint
