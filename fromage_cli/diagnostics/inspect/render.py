"""The pages a person sees: whether something is wrong, what there is, and the tensors that stand out."""

import math
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.inspect.also_holds import held_in_short, held_table
from fromage_cli.diagnostics.inspect.result import (
    GroupResult,
    InspectResult,
    OptimizerResult,
    SafetyResult,
    TensorResult,
)
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.page import Fact, facts, shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table
from fromage_cli.terminal.words import OPTIMIZER_TITLES, in_bytes, number, visible

_VERDICTS = ("dangerous", "unknown", "inert", "allowed")
FEW = 3
"""Settings that are named each; of more, the smallest and the largest."""


def render(result: InspectResult, style: PageStyle, brief: bool = False) -> RenderableType:
    """The whole page, without findings; a `brief` one leaves the tensors out, as where several files are inspected."""
    numbers = (
        [_optimizer(result.optimizer)] if brief and result.optimizer else [] if brief else [*_facts(result, style)]
    )
    page: list[RenderableType] = [
        Text(verdict(result)),
        *([facts(numbers, style, [tensor.name for tensor in result.tensors])] if numbers else []),
    ]
    if style.verbose:
        page += [Text(sentence) for sentence in _sentences(result)]
    if result.tensors and (not brief or style.show_all or style.verbose):
        page += [Text(""), *_tensors(result, style)]
    if style.verbose and result.optimizer is not None:
        page += [Text(""), *_groups(result.optimizer, style)]
    if result.also_holds and (style.verbose or style.show_all):
        page += [Text(""), *held_table(result.also_holds, style)]
    return Group(*page)


def verdict(result: InspectResult) -> str:
    """Whether something is wrong with the file, in a sentence."""
    broken = [tensor.name for tensor in result.tensors if known(tensor.nonfinite)]
    dangerous = sum(entry.verdict == "dangerous" for entry in result.safety)
    if not result.tensors:
        return "This file holds an optimizer's state alone. It has no weights, and no numbers were checked."
    if broken:
        more = f" (first {visible(broken[0])})" if len(broken) > 1 else f": {visible(broken[0])}"
        holds = "holds" if len(broken) == 1 else "hold"
        return f"{len(broken)} of {counted(len(result.tensors), 'tensor')} {holds} NaN or infinite values{more}."
    if dangerous:
        return f"{_share(dangerous, len(result.safety))} would run code in an ordinary loader; nothing was run here."
    if any(log.not_finite for log in result.logs):
        return "The weights are finite, but the training loss in a log is not."
    if isinstance(result.totals.nonfinite, Missing) and result.tensors:
        return "Nothing wrong found in names, shapes and settings; the numbers themselves were not read."
    return "Nothing wrong found."


def _share(count: int, total: int) -> str:
    """So many of all names: `1 of 4 names`."""
    return f"{count} of {counted(total, 'name')}"


def stored_as(result: InspectResult) -> str:
    """How the parameters are stored: `all float32`, or how many in each dtype."""
    dtypes = result.totals.dtypes
    if len(dtypes) == 1:
        return f"all {dtypes[0].dtype}"
    return ", ".join(f"{total.elements:,} {total.dtype}" for total in dtypes)


def _facts(result: InspectResult, style: PageStyle) -> Iterator[Fact]:
    """What the file holds, in numbers."""
    totals = result.totals
    counts = (("NaN or Inf", known(totals.nonfinite)), ("zeros", known(totals.zeros)))
    read = ", ".join(f"{f'{count:,}' if count else 'no'} {what}" for what, count in counts if count is not None)
    if result.tensors:
        yield Fact("Parameters", f"{totals.parameters:,}", "; ".join(filter(None, (stored_as(result), read))))
    yield _optimizer(result.optimizer)
    if not result.tensors and result.optimizer is not None:
        count = sum(group.parameters for group in result.optimizer.groups)
        yield Fact("Remembers", counted(count, "tensor"), ", ".join(result.optimizer.slots) or "nothing yet")
    for group in result.tied:
        yield Fact("Tied", counted(len(group), "name"), f"one tensor: {' = '.join(group)}")
    if held := held_in_short(result.also_holds, known(result.step)):
        entries = len(result.also_holds)
        yield Fact("Also holds", f"{entries} {'entry' if entries == 1 else 'entries'}", held)
    for log in result.logs:
        said = (("loss", log.loss), ("rate", log.learning_rate))
        last = [f"{name} {number(value)}" for name, value in said if known(value) is not None]
        step = known(log.step)
        words = ", ".join([*last, f"{log.file} ({counted(log.records, 'record')})"])
        yield Fact("Log", "—" if step is None else f"step {step}", words)
    largest = max((value for tensor in result.tensors if (value := known(tensor.max_abs)) is not None), default=None)
    if style.verbose and largest is not None:
        yield Fact("Largest value", number(largest), "over all tensors")


def _optimizer(optimizer: OptimizerResult | None) -> Fact:
    """The optimizer in one line: its kind, its updates and its settings."""
    if optimizer is None:
        return Fact("Optimizer", "none", "no optimizer state was saved in this file")
    kind = OPTIMIZER_TITLES.get(optimizer.kind or "", optimizer.kind) or "unknown"
    updates = known(optimizer.step)
    said = [] if updates is None else [counted(updates, "update")]
    said += _settings("rate", [known(group.learning_rate) for group in optimizer.groups])
    said += _settings("weight decay", [known(group.weight_decay) for group in optimizer.groups])
    return Fact("Optimizer", kind, ", ".join(said) or "no settings of it were saved")


def _settings(name: str, values: Sequence[float | None]) -> list[str]:
    """One setting of all groups: its value, or its few values, or the range of many."""
    found = list(dict.fromkeys(value for value in values if value is not None))
    if not found:
        return []
    if len(found) > FEW:
        return [f"{name} {number(min(found))} to {number(max(found))}"]
    return [f"{name} {' and '.join(map(number, found))}"]


def _sentences(result: InspectResult) -> Iterator[str]:
    """What only some readers want to know: what was taken, what the format can do, what the optimizer remembers."""
    if result.key:
        yield f"The tensors were taken from {visible(result.key)!r}."
    yield f"{result.reading}."
    if result.optimizer is not None:
        yield f"The optimizer remembers {visible(', '.join(result.optimizer.slots)) or 'nothing'}."


def _tensors(result: InspectResult, style: PageStyle) -> list[RenderableType]:
    """The tensors, those first that are not finite, that are all zero, that hold the largest values."""
    spectrum = any(known(tensor.spectral_norm) is not None for tensor in result.tensors)
    ordered = sorted(result.tensors, key=_condition if spectrum else _rank)
    shown = shown_rows(ordered, style)
    several = len({tensor.dtype for tensor in result.tensors}) > 1
    columns = [Column("tensor", name=True)]
    columns += [Column("dtype", left=True, optional=1)] if several or style.verbose else []
    columns += [Column("shape")]
    if known(result.duplicates) is not None:
        columns += [Column("norm", optional=2), Column("rms", optional=3), Column("largest", optional=1)]
        columns += [Column("zeros", optional=4)]
        columns += [Column("not finite")] if any(known(tensor.nonfinite) for tensor in result.tensors) else []
    columns += [Column("spectral"), Column("stable rank"), Column("condition")] if spectrum else []
    rows = []
    for tensor in shown:
        colour = "bold red" if known(tensor.nonfinite) else "yellow" if _all_zero(tensor) else ""
        cells: dict[str, object] = {
            "tensor": Text(tensor.name, colour),
            "dtype": tensor.dtype,
            "shape": "×".join(map(str, tensor.shape)) or "scalar",
            "norm": tensor.norm,
            "rms": tensor.rms,
            "largest": tensor.max_abs,
            "zeros": tensor.zeros,
            "not finite": tensor.nonfinite,
            "spectral": tensor.spectral_norm,
            "stable rank": tensor.stable_rank,
            "condition": tensor.condition_number,
        }
        rows.append([cells[column.header] for column in columns])
    hidden = ordered[len(shown) :]
    largest = [value for tensor in hidden if (value := known(tensor.max_abs)) is not None and math.isfinite(value)]
    below = f"no value in them beyond ±{number(max(largest))}" if largest and not known(hidden[0].nonfinite) else ""
    below += " (sorted by largest)" if below and not spectrum else ""
    table = house_table(columns, rows, style, [tensor.name for tensor in ordered])
    return [table, *hidden_rows(len(shown), len(ordered), below)]


def _rank(tensor: TensorResult) -> tuple[bool, bool, float]:
    """Where a tensor stands: not finite, all zero, then by its largest value; unread ones by their size."""
    largest = known(tensor.max_abs)
    size = float(tensor.elements) if largest is None else largest
    return not known(tensor.nonfinite), not _all_zero(tensor), -size if math.isfinite(size) else -math.inf


def _condition(tensor: TensorResult) -> tuple[bool, float]:
    """Where a tensor stands whose singular values are known: not finite ones first, then by its condition number."""
    return not known(tensor.nonfinite), -(known(tensor.condition_number) or 0.0)


def _all_zero(tensor: TensorResult) -> bool:
    """Whether a matrix holds nothing but zeros; vectors of zeros are usual."""
    return len(tensor.shape) > 1 and tensor.elements > 0 and tensor.zeros == tensor.elements


def _groups(optimizer: OptimizerResult, style: PageStyle) -> list[RenderableType]:
    """The settings of the optimizer's groups."""
    columns = [Column("group", left=True), Column("tensors"), Column("rate"), Column("betas"), Column("momentum")]
    columns += [Column("decay"), Column("first of them", name=True, optional=1)]
    rows = [_group(index, group) for index, group in enumerate(optimizer.groups)]
    return [house_table(columns, rows, style)]


def _group(index: int, group: GroupResult) -> tuple[object, ...]:
    """A row of the groups' table."""
    betas = ", ".join(number(beta) for beta in group.betas) if group.betas else None
    names = group.names or ()
    settings = (group.learning_rate, betas, group.momentum, group.weight_decay)
    return str(index), group.parameters, *settings, names[0] if names else None


def header(result: InspectResult) -> tuple[str, ...]:
    """The file's contents in a few words each, for the first line of the page."""
    totals = result.totals
    if not result.tensors:
        return result.format, "an optimizer's state"
    tensors = counted(totals.tensors, "tensor")
    return result.format, tensors, f"{totals.parameters:,} parameters", in_bytes(totals.bytes), stored_as(result)


def headline(result: InspectResult) -> Table:
    """The numbers that the page begins with."""
    totals, optimizer = result.totals, result.optimizer
    rates = {known(group.learning_rate) for group in optimizer.groups} if optimizer is not None else set()
    return summary(
        [
            ("step", result.step, "steps"),
            ("tensors", totals.tensors, "tensors"),
            ("parameters", totals.parameters, "parameters"),
            ("bytes", totals.bytes, "bytes"),
            ("not_finite", totals.nonfinite, "entries"),
            ("zeros", totals.zeros, "entries"),
            ("optimizer", optimizer.kind if optimizer is not None else None, "name"),
            ("optimizer_updates", optimizer.step if optimizer is not None else None, "steps"),
            ("learning_rate", rates.pop() if len(rates) == 1 else None, "learning rate"),
        ]
    )


def render_safety(result: SafetyResult, style: PageStyle) -> RenderableType:
    """The page of `inspect --safety`, names that would run code first, without findings."""
    # one row for each name and use, whatever the number of pickles
    places: dict[tuple[str, str, str], list[str]] = {}
    for entry in sorted(result.safety, key=lambda entry: _VERDICTS.index(entry.verdict)):
        key = (f"{entry.module}.{entry.name}".lstrip("."), entry.verdict, entry.use)
        places.setdefault(key, []).append(entry.place or "the file")
    rows = []
    colours = {"dangerous": "bold red", "unknown": "yellow"}
    for (name, verdict, use), where in places.items():
        acts = "run it" if use == "code" else use.replace("build", "set attributes").replace("+", ", ")
        place = f"{where[0]} and {len(where) - 1} more" if len(where) > 1 else where[0]
        rows.append((Text(name, colours.get(verdict, "")), verdict, acts, place))
    shown = shown_rows(rows, style)
    page: list[RenderableType] = [Text(safety_verdict(result))]
    if shown:
        columns = [Column("name", name=True), Column("verdict", left=True)]
        columns += [Column("an ordinary loader would", left=True), Column("where", name=True, optional=1)]
        table = house_table(columns, shown, style, [row[0].plain for row in rows])
        page += [Text(""), table, *hidden_rows(len(shown), len(rows))]
    faults = shown_rows(result.unread, style)
    unread = [Text(f"read in part: {visible(fault)}") for fault in faults]
    return Group(*page, *unread, *hidden_rows(len(faults), len(result.unread)))


def safety_verdict(result: SafetyResult) -> str:
    """How much of what the file names would run."""
    total = len(result.safety)
    counts = {verdict: sum(entry.verdict == verdict for entry in result.safety) for verdict in _VERDICTS}
    if not total and not result.pickles:
        return f"No pickles and no code were found{' in what could be looked into' if result.unread else ''}."
    if counts["dangerous"]:
        said = f"{_share(counts['dangerous'], total)} would run code."
    elif unsure := counts["unknown"] + counts["inert"]:
        comes = "comes" if unsure == 1 else "come"
        said = f"No name is known to run code; {_share(unsure, total)} {comes} from other code than torch's."
    else:
        said = f"None of {counted(total, 'name')} would run code." if total else "No pickle names any code."
    return f"{said} Nothing was imported or called here."


def safety_header(result: SafetyResult, path: str) -> tuple[str, ...]:
    """The file, its pickles and their names in a few words each."""
    place = "/".join(PurePath(path).parts[-2:])
    return place, counted(result.pickles, "pickle"), counted(len(result.safety), "name")


def safety_headline(result: SafetyResult) -> Table:
    """The numbers that the page of `--safety` begins with."""
    counts = [(verdict, sum(entry.verdict == verdict for entry in result.safety), "names") for verdict in _VERDICTS]
    return summary([("pickles", result.pickles, "pickles"), *counts, ("not_looked_into", len(result.unread), "parts")])
