"""Answers that were written before: the JSON of a command, JSON lines, or a page of `report`."""

import base64
import binascii
import bz2
import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from fromage_cli.errors import InputError
from fromage_cli.terminal.envelope import SCHEMA
from fromage_cli.terminal.words import visible

ENDINGS = (".json", ".jsonl", ".html", ".htm")
"""Of files that may hold answers."""
LARGEST = 200_000_000
"""Bytes of JSON that are read; the answers about 100 layers at 20 checkpoints have a hundredth of that."""
MOST_OBJECTS, DEEPEST = 2_000_000, 100
"""Objects and lists of a file, and how deep they stand inside one another."""
MOST = 2000
"""Answers of one page."""
MARK = 'download="fromage-diag.json.bz2" href="data:application/x-bzip2;base64,'
"""What stands before the numbers in a page."""
REMAKE = "Make one with: fromage-diag check CKPT --json -o answer.json"
DIGITS = 4
"""Of the numbers in a page, which shows three of them."""

Envelope = Mapping[str, Any]


def holds_answers(path: Path) -> bool:
    """Whether a file looks like answers of this program, and is no checkpoint."""
    if path.suffix.lower() not in ENDINGS or not path.is_file():
        return False
    if path.suffix.lower() in (".html", ".htm"):
        return True
    with path.open("rb") as file:
        ends = file.read(65_536)
        file.seek(max(0, path.stat().st_size - 65_536))
        ends += file.read(65_536)
    return b"fromage-diag/" in ends.replace(b"\0", b"")  # some shells write two bytes a letter


def read_answers(path: Path) -> list[Envelope]:
    """The envelopes in a file. Raises InputError for what is no answer of this program."""
    name = repr(visible(str(path)))
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}.", REMAKE) from error
    if len(data) > LARGEST:
        raise InputError(f"{name} is larger than {LARGEST} bytes.", REMAKE)
    try:
        page = path.suffix.lower() in (".html", ".htm")
        text = embedded(data) if page else data.decode(json.detect_encoding(data))
        if text.count("[") + text.count("{") > MOST_OBJECTS:
            raise InputError(f"{name} holds more than {MOST_OBJECTS} objects.", "Give fewer answers.")
        told = _parsed(text, path.suffix.lower() == ".jsonl")
        if depth(told) > DEEPEST:
            raise ValueError("nested")
        told = restored(told) if page else told
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{name} does not hold answers of fromage-diag.", REMAKE) from error
    found = [each for one in told for each in envelopes(one)]
    if not found:
        raise InputError(f"{name} does not hold answers of fromage-diag.", REMAKE)
    if len(found) > MOST:
        raise InputError(f"{name} holds {len(found)} answers; a page takes {MOST}.", "Give fewer files.")
    return found


def _parsed(text: str, lines: bool) -> list[Any]:
    """The JSON documents of a text."""
    if lines:
        return [_strict(line) for line in text.split("\n") if line.strip()]
    told = _strict(text)
    return told if isinstance(told, list) else [told]


def _strict(text: str) -> Any:
    """One document of strict JSON; raises ValueError for NaN, and for numbers beyond what floats hold."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def envelopes(told: Any) -> list[Envelope]:
    """The answers of diagnostics in a document: itself, or those that a report holds."""
    if not isinstance(told, Mapping) or told.get("schema") != SCHEMA or not isinstance(told.get("command"), str):
        return []
    if told["command"] == "report":
        held = told.get("result")
        answers = held.get("answers") if isinstance(held, Mapping) else None
        return [one for each in answers for one in envelopes(each)] if isinstance(answers, list) else []
    return [told] if isinstance(told.get("result"), Mapping) or isinstance(told.get("error"), Mapping) else []


def depth(told: Any) -> int:
    """How many objects and lists stand inside one another."""
    level, found = [told], 0
    while level := [each for each in level if isinstance(each, Mapping | list)]:
        found += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, Mapping) else each)]
    return found


def embedded(data: bytes) -> str:
    """The JSON inside a page; raises ValueError or OSError where there is none, or too much of it."""
    _, mark, rest = data.partition(MARK.encode())
    if not mark:
        raise ValueError("no numbers")
    try:
        packed = base64.b64decode(rest.partition(b'"')[0], validate=True)
    except binascii.Error as error:
        raise ValueError("damaged") from error
    reader = bz2.BZ2Decompressor()
    text = reader.decompress(packed, LARGEST)
    if not reader.eof:
        raise ValueError("too much, or cut off")
    return text.decode("utf-8")


def rounded(told: Any) -> Any:
    """The same with DIGITS significant digits of each number that is not whole."""
    if isinstance(told, float) and not told.is_integer():
        return float(f"{told:.{DIGITS}g}")
    if isinstance(told, Mapping):
        return {key: rounded(value) for key, value in told.items()}
    return [rounded(each) for each in told] if isinstance(told, list | tuple) else told


def packed(answers: Sequence[Envelope]) -> str:
    """The answers as JSON, compressed and in base64: the same text for the same answers.

    Running maxima are left out: `restored` makes them again.
    """
    text = json.dumps(_short(answers), allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return base64.b64encode(bz2.compress(text.encode())).decode()


def _short(told: Any) -> Any:
    if isinstance(told, Mapping):
        known = told.get("path_breakdown", ...) == _running(told.get("breakdown"))
        return {key: _short(value) for key, value in told.items() if key != "path_breakdown" or not known}
    return [_short(each) for each in told] if isinstance(told, list | tuple) else told


def restored(told: Any) -> Any:
    """The same with the running maximum beside every breakdown that lacks it."""
    if isinstance(told, Mapping):
        whole = {key: restored(value) for key, value in told.items()}
        running = _running(told.get("breakdown"))
        return whole if running is None else {"path_breakdown": running, **whole}
    return [restored(each) for each in told] if isinstance(told, list) else told


def _running(values: Any) -> list[float] | None:
    """The largest so far; None where the values are no numbers."""
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    return [*accumulate(values, max)] if numbers else None
