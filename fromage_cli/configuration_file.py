"""A fromage.toml or pyproject.toml is read in one way, whether it is the project's own or lies beside a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromage_cli.errors import UsageError

FILES = ("fromage.toml", "pyproject.toml")
"""In the order in which a directory is searched."""
SECTION = "fromage-diag"
LONGEST = 1_000_000
"""Bytes of a file that is parsed; none that a person writes comes near."""
MOST_DOTS = 4_000_000
"""The squares of each line's dots, summed: a key of n parts takes time and memory as n². Ten thousand lines with twenty
dots each come to this.
"""
DEEPEST = 50
"""Tables and arrays within each other, where none that a person writes comes near."""


@dataclass(frozen=True)
class ConfigurationTable:
    """What a configuration file says to this program."""

    values: Mapping[str, Any]
    """By key with hyphens; the learning rate is `lr` however it was written. Tables of commands stand among them."""
    outside: tuple[str, ...] = ()
    """Keys at the top of a fromage.toml that has the table `[tool.fromage-diag]` too: they say nothing."""


def read_configuration(path: Path) -> ConfigurationTable | None:
    """The keys of `[tool.fromage-diag]`, or in a fromage.toml without it those at the top; None without either.

    Raises UsageError where the file is not what it should be, and OSError where it cannot be read.
    """
    import tomllib  # most commands find no such file

    with path.open("rb") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise UsageError(
            f"{path} is larger than {LONGEST} bytes, the most for a configuration file.",
            "Correct the file, or remove it.",
        )
    if sum(line.count(b".") ** 2 for line in text.splitlines()) > MOST_DOTS:
        raise UsageError(f"{path} has lines with thousands of dots.", "Correct the file, or remove it.")
    try:
        document = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOML's own and that of UTF-8; numbers of thousands of digits
        raise UsageError(f"{path} is not valid TOML: {error}.", "Correct the file, or remove it.") from error
    tools = document.get("tool")
    own = tools.get(SECTION) if isinstance(tools, dict) else None
    if own is None and path.name == "pyproject.toml":
        return None
    table = document if own is None else own
    if not isinstance(table, dict):
        raise UsageError(f"[tool.{SECTION}] in {path} is not a table.", "Write `flag = value` lines.")
    if not _is_plain(table, DEEPEST):
        raise UsageError(
            f"{path} has an integer of more than 64 bits, or values nested more than {DEEPEST} deep.",
            "Correct the file, or remove it.",
        )
    outside = () if own is None or path.name == "pyproject.toml" else tuple(key for key in document if key != "tool")
    return ConfigurationTable(_one_spelling(table, path), outside)


def _is_plain(value: Any, levels: int) -> bool:
    """Whether a value nests no deeper than so many levels, and holds only such whole numbers as TOML promises."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_plain(one, levels - 1) for one in held)


def _one_spelling(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The table with hyphens in its keys, and in those of the tables of commands."""
    spelled: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        name = "lr" if name == "learning-rate" else name
        if name in spelled:
            raise UsageError(
                f"{path} sets {name} twice, in two spellings; the second is {key!r}.", "Keep one of the two."
            )
        nested = isinstance(value, dict) and name != "model-arg"  # whose keys are the names of a factory's arguments
        spelled[name] = _one_spelling(value, path) if nested else value
    return spelled
