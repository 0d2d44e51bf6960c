"""A JSON object beside weights, read with a limit on its size."""

import json
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.storage.files import FileVersion, opened, quoted
from fromage_cli.errors import InputError

LARGEST_JSON = 100_000_000
"""Bytes; as many as the header of a safetensors file may have, and the largest index has a hundredth."""
BRACKET, COMMA, SLACK = 16, 5, 200_000
"""Bytes that a text has at least for each of its brackets and commas, beyond the first SLACK bytes' worth.

An entry of a header or an index has four brackets or commas and 60 bytes or more.
"""
CROWDED = "of any checkpoint: it has far too many values for its length"


def is_crowded(text: bytes) -> bool:
    """Tell whether a JSON text has so many tiny values that they would take many times its length in memory."""
    brackets, commas = text.count(b"{") + text.count(b"["), text.count(b",")
    return max(BRACKET * brackets, COMMA * commas) > len(text) + SLACK


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; anything else raises InputError."""
    version = FileVersion.of(path)
    if version.size > LARGEST_JSON:
        raise InputError(
            f"{quoted(path)} has {version.size} bytes, but JSON is read up to {LARGEST_JSON}.",
            hint="It is not an index or a configuration. Name the file with the weights.",
        )
    with opened(path) as file:
        text = file.read(LARGEST_JSON + 1)
    if is_crowded(text):
        raise InputError(f"{quoted(path)} is not JSON ({CROWDED}).", hint="The file is damaged; copy it again.")
    try:
        table = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{quoted(path)} is not JSON ({error}).", hint="The file is damaged; copy it again."
        ) from error
    if not isinstance(table, dict):
        raise InputError(f"{quoted(path)} is not a JSON object.", hint="The file is damaged; copy it again.")
    return table
