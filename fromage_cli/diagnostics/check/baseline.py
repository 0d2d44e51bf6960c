"""An earlier answer of `check` beside this one: what is new, and which numbers changed."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fromage_cli.diagnostics.check.result import Change, Comparison, Number
from fromage_cli.errors import InputError
from fromage_cli.findings import Finding

LARGEST = 200_000_000
"""Bytes of an answer that is read; one about ten thousand layers has a tenth of that."""
CHANGED = 1.5
"""Factor, either way, from which on a number counts as another."""
WORSE = 1.1
"""Factor by which a finding may be further beyond its limit than in the baseline, and still count as known."""
ORDER = ("info", "warn", "fail")
REMAKE = "Make one with: fromage-diag check CKPT --json -o baseline.json"


def read_baseline(path: Path) -> Mapping[str, Any]:
    """The envelope of an earlier answer of `check`; raises InputError for what is none."""
    name = repr(str(path))
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"--baseline {name} is no regular file.", REMAKE)
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise InputError(f"--baseline {name} is larger than {LARGEST} bytes.", REMAKE)
        told = json.loads(text)
    except OSError as error:
        raise InputError(f"--baseline {name} cannot be read: {error.strerror}.", REMAKE) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--baseline {name} is not JSON.", REMAKE) from error
    if not is_answer(told):
        raise InputError(f"--baseline {name} is no answer of check.", REMAKE)
    return told  # type: ignore[no-any-return]


def is_answer(told: Any) -> bool:
    """Whether this has all that is compared, each of its kind."""
    if not isinstance(told, dict) or told.get("command") != "check" or not isinstance(told.get("result"), dict):
        return False
    result = told["result"]
    lists = (told.get("findings"), result.get("numbers"), told.get("checkpoints"))
    if not all(isinstance(part, list) and all(isinstance(one, dict) for one in part) for part in lists):
        return False
    findings, numbers = told["findings"], result["numbers"]
    return (
        result.get("verdict") in ("go", "look", "stop")
        and all(isinstance(one.get("code"), str) and one.get("severity") in ORDER for one in findings)
        and all(isinstance(one.get("layer"), str | None) for one in findings)
        and all(isinstance(one.get("command"), str) and isinstance(one.get("name"), str) for one in numbers)
        and all(is_number(one.get(key), none=True) for one in findings for key in ("value", "limit"))
        and all(is_number(one.get("value")) for one in numbers)
    )


def is_number(value: Any, *, none: bool = False) -> bool:
    """Whether this is a number that floats can hold; `none`: or None."""
    return (none and value is None) or (type(value) in (int, float) and abs(value) < sys.float_info.max)


def compare(
    told: Mapping[str, Any], path: Path, findings: Sequence[Finding], numbers: Sequence[Number]
) -> tuple[Comparison, list[Finding]]:
    """How this answer differs from an earlier one, and its findings with those that are known as informations.

    A finding is known where the earlier answer has its code for the same layer. It must have been as grave, and not
    much nearer to its limit.
    """
    before = {(one["code"], one.get("layer")): one for one in told["findings"]}
    grave = [one for one in findings if one.severity != "info"]
    known = {one for one in grave if is_known(one, before.get((one.code, one.layer)))}
    here = {(one.code, one.layer) for one in grave}
    gone = [one["code"] for key, one in before.items() if one["severity"] != "info" and key not in here]
    last = told["checkpoints"][-1] if told["checkpoints"] else {}
    comparison = Comparison(
        path=str(path),
        checkpoint=str(last.get("path", "")),
        step=last["step"] if isinstance(last.get("step"), int) else None,
        verdict=told["result"]["verdict"],
        new=tuple(dict.fromkeys(one.code for one in grave if one not in known)),
        known=tuple(dict.fromkeys(one.code for one in grave if one in known)),
        gone=tuple(dict.fromkeys(gone)),
        changes=tuple(changed_numbers(told["result"]["numbers"], numbers)),
    )
    lowered = [
        replace(one, severity="info", message=f"{one.message} (as in the baseline)") if one in known else one
        for one in findings
    ]
    return comparison, lowered


def is_known(finding: Finding, before: Mapping[str, Any] | None) -> bool:
    """Whether the earlier answer has the finding, no less grave and about as far beyond its limit."""
    if before is None:
        return False
    if ORDER.index(str(before["severity"])) < ORDER.index(finding.severity):
        return False
    now, then = _excess(finding.value, finding.limit), _excess(before.get("value"), before.get("limit"))
    return now is None or then is None or now <= WORSE * then


def _excess(value: Any, limit: Any) -> float | None:
    """How many times a value is beyond its limit, on either side; None where that has no meaning."""
    if not all(isinstance(one, int | float) and math.isfinite(one) and one > 0.0 for one in (value, limit)):
        return None
    return max(float(value / limit), float(limit / value))


def changed_numbers(before: Sequence[Mapping[str, Any]], now: Sequence[Number]) -> list[Change]:
    """The numbers that both have and that differ by CHANGED or in their sign, the most first."""
    earlier = {(one.get("command"), one.get("name")): one.get("value") for one in before}
    changes = []
    for one in now:
        then = earlier.get((one.command, one.name))
        if then is not None and then != one.value:
            ratio = one.value / then if then else math.inf
            if ratio <= 0.0 or not 1.0 / CHANGED < ratio < CHANGED:
                size = abs(math.log(ratio)) if 0.0 < ratio < math.inf else math.inf
                changes.append((size, Change(one.command, one.name, float(then), one.value)))
    return [change for _, change in sorted(changes, key=lambda entry: -entry[0])]
