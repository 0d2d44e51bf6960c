"""A JSON object beside weights, read with a limit on its size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.storage.files import FileVersion, opened, quoted
from fromage_cli.errors import InputError

LIMIT = 100_000_000  # bytes


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; anything else raises InputError."""
    version = FileVersion.of(path)
    if version.size > LIMIT:
        raise InputError(f"{quoted(path)} has {version.size} bytes; at most {LIMIT} are read as JSON.")
    with opened(path) as file:
        text = file.read(LIMIT + 1)
    try:
        table = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{quoted(path)} is not JSON ({error}).", hint="It is damaged; copy it again.") from error
    if not isinstance(table, dict):
        raise InputError(f"{quoted(path)} is not a JSON object.", hint="It is damaged; copy it again.")
    return table
