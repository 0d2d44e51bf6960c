"""Maps of layers and steps: what changes along a run."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fromage_cli.report.figures import MOST_COLUMNS, MOST_ROWS, MapRow, step_map
from fromage_cli.report.gathered import Answered, Gathered
from fromage_cli.report.parts import Section, figure
from fromage_cli.report.told import (
    as_number,
    entries_at,
    known,
    number_at,
    numbers_at,
    step_text,
    steps_at,
    text_at,
)


def along_the_run(gathered: Gathered) -> Section | None:
    """Maps of layers and steps."""
    norms, turned = gathered.last("norms"), gathered.last("intrinsic-lr")

    def grown(layer: Mapping[str, Any]) -> list[float | None]:
        held = numbers_at(layer, "norms")
        first = next(iter(known(held)), None)
        return [as_number(each / first) if each and first else None for each in held]

    def rotated(layer: Mapping[str, Any]) -> list[float | None]:
        return numbers_at(layer, "observed_rotations")

    pictures = [
        *_map_of(
            gathered.along("breakdown"), "trust_eta", "Safe relative step", "A stronger shade is a larger safe step."
        ),
        *figure(
            _run_map(norms, steps_at(norms, "steps"), grown, "Norm of each layer over its first norm"),
            "Norm of each layer over its first norm. A stronger shade has grown more.",
        ),
        *_map_of(
            gathered.along("state"),
            "relative_update",
            "Size of the next update over the weights",
            "A stronger shade is a larger update.",
        ),
        *figure(
            _run_map(turned, steps_at(turned, "steps")[1:], rotated, "Rotation since the checkpoint before"),
            "Rotation of each layer since the checkpoint before, in radians. A stronger shade has turned further.",
        ),
    ]
    if not pictures:
        return None
    rule = f"A map shows at most {MOST_ROWS} layers, those that change most along the run, and {MOST_COLUMNS} steps."
    empty = "Where nothing is drawn, the value is not known."
    return Section("Along the run", (f"{rule} The saved numbers hold all.", empty), tuple(pictures))


def _map_of(answers: Sequence[Answered], key: str, title: str, caption: str) -> Iterator[Any]:
    """The map of one number of each layer, where more than one checkpoint was looked at."""
    if len(answers) < 2:
        return
    values: dict[str, list[float | None]] = {}
    for place, one in enumerate(answers):
        for layer in entries_at(one.result, "layers"):
            values.setdefault(text_at(layer, "name"), [None] * len(answers))[place] = number_at(layer, key)
    yield from figure(step_map(_rows(values), [one.label for one in answers], title), f"{title}. {caption}")


def _run_map(
    told: Mapping[str, Any] | None,
    steps: Sequence[float | None],
    values: Callable[[Mapping[str, Any]], list[float | None]],
    title: str,
) -> Markup | None:
    """The map of a result that holds the whole run; None where it has fewer than two steps."""
    if len(steps) < 2:
        return None
    rows = {text_at(layer, "name"): values(layer) for layer in entries_at(told, "layers")}
    return step_map(_rows(rows), [step_text(step) for step in steps], title)


def _rows(values: Mapping[str, Sequence[float | None]]) -> list[MapRow]:
    """In the order given, those that change most."""

    def change(name: str) -> float:
        above = [value for value in known(values[name]) if value > 0.0]
        return math.log(max(above)) - math.log(min(above)) if above else -1.0

    chosen = set(sorted(values, key=change, reverse=True)[:MOST_ROWS])
    return [MapRow(name, row) for name, row in values.items() if name in chosen]
