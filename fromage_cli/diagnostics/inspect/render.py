"""The pages a person sees: a sentence, the tensors and the optimizer; or the names that pickles ask for."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.inspect.result import InspectResult, SafetyResult, TensorResult
from fromage_cli.missing import known
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table
from fromage_cli.terminal.words import in_bytes, number, visible

ROWS = 16
"""Tensors shown without `--all`."""
NAMES = 24
"""Names in pickles shown without `--all`."""
_VERDICTS = ("dangerous", "unknown", "inert", "allowed")


def render(result: InspectResult, style: PageStyle, path: str) -> RenderableType:
    """The whole page, without findings."""
    not_finite_first = sorted(result.tensors, key=lambda tensor: not known(tensor.nonfinite))
    shown = result.tensors if style.show_all else not_finite_first[:ROWS]
    hidden = hidden_rows(len(shown), len(result.tensors))
    tied = [Text(f"tied, one tensor in memory: {' = '.join(map(visible, group))}") for group in result.tied]
    gap = [Text("")] if hidden or tied else []
    logs = []
    for log in result.logs:
        numbers = (("step", log.step), ("loss", log.loss), ("learning rate", log.learning_rate))
        last = ", ".join(f"{name} {number(value)}" for name, value in numbers if known(value) is not None)
        logs.append(Text(f"Log {visible(log.file)}: {last} ({counted(log.records, 'record')})."))
    said = Text(summary(result, path))
    return Group(said, _tensors(result, shown, style), *hidden, *tied, *gap, *_optimizer(result, style), *logs)


def summary(result: InspectResult, path: str) -> str:
    """The answer in a few sentences."""
    totals = result.totals
    dtypes = ", ".join(f"{total.elements} {total.dtype}" for total in totals.dtypes)
    step = f", step {result.step}" if known(result.step) is not None else ""
    taken = f", taken from {visible(result.key)!r}" if result.key else ""
    size = f"{counted(totals.tensors, 'tensor')}, {in_bytes(totals.bytes)}"
    return (
        f"{visible(path)}: {result.format}{step}{taken}. {size}, "
        f"{totals.parameters} floating-point elements (stored: {dtypes}). {result.reading}."
    )


def _tensors(result: InspectResult, shown: Sequence[TensorResult], style: PageStyle) -> RenderableType:
    columns = [Column("tensor", name=True), Column("dtype", left=True, optional=1), Column("shape")]
    if known(result.duplicates) is not None:
        columns += [
            Column("norm"),
            Column("rms", optional=2),
            Column("largest", optional=4),
            Column("zeros", optional=3),
        ]
        columns += [Column("not finite")] if any(known(tensor.nonfinite) for tensor in result.tensors) else []
    spectrum = any(known(tensor.spectral_norm) is not None for tensor in result.tensors)
    columns += [Column("spectral"), Column("stable rank"), Column("condition")] if spectrum else []
    rows = []
    for tensor in shown:
        cells: dict[str, object] = {
            "tensor": tensor.name,
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
    return house_table(columns, rows, style)


def _optimizer(result: InspectResult, style: PageStyle) -> Sequence[RenderableType]:
    """What the optimizer is and remembers, and the settings of its groups."""
    optimizer = result.optimizer
    if optimizer is None:
        return [Text("No optimizer state was saved in this file.")]
    kind = f"Optimizer: {optimizer.kind}" if optimizer.kind else "An optimizer of unknown kind"
    step = f", {optimizer.step} updates" if known(optimizer.step) is not None else ""
    said = f"{kind}{step}; it remembers {visible(', '.join(optimizer.slots)) or 'nothing'}."
    columns = [Column("group", left=True), Column("tensors"), Column("rate"), Column("betas"), Column("momentum")]
    columns += [Column("decay"), Column("parameters", name=True, optional=1)]
    rows = []
    for index, group in enumerate(optimizer.groups):
        betas = ", ".join(number(beta) for beta in group.betas) if group.betas else None
        names = group.names or ()
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        settings = (group.learning_rate, betas, group.momentum, group.weight_decay)
        rows.append((str(index), group.parameters, *settings, f"{names[0]}{more}" if names else None))
    return Text(said), house_table(columns, rows, style)


def render_safety(result: SafetyResult, style: PageStyle, path: str) -> RenderableType:
    """The page of `inspect --safety`, names that would run code first, without findings."""
    # one row for each name and use, whatever the number of pickles
    places: dict[tuple[str, str, str], list[str]] = {}
    for entry in sorted(result.safety, key=lambda entry: _VERDICTS.index(entry.verdict)):
        key = (f"{entry.module}.{entry.name}".lstrip("."), entry.verdict, entry.use)
        places.setdefault(key, []).append(entry.place or "the file")
    rows = []
    for (name, verdict, use), where in places.items():
        acts = "run it" if use == "code" else use.replace("build", "set attributes").replace("+", ", ")
        rows.append((name, verdict, acts, f"{where[0]} and {len(where) - 1} more" if len(where) > 1 else where[0]))
    shown = rows if style.show_all else rows[:NAMES]
    said = Text(f"{visible(path)}: {sentence(result)}")
    faults = result.unread if style.show_all else result.unread[:NAMES]
    unread = [Text(f"read in part: {visible(fault)}") for fault in faults]
    unread += hidden_rows(len(faults), len(result.unread))
    if not shown:
        return Group(said, *unread)
    columns = [Column("name", name=True), Column("verdict", left=True), Column("an ordinary loader would", left=True)]
    columns += [Column("in", name=True, optional=1)]
    table = house_table(columns, shown, style)
    return Group(said, table, *hidden_rows(len(shown), len(rows)), *unread)


def sentence(result: SafetyResult) -> str:
    """How much there is, and how much of it would run."""
    if not result.safety and not result.pickles:
        what = "what could be looked into, and not all could." if result.unread else "it."
        return f"no pickles and no code were found in {what}"
    counts = {verdict: sum(entry.verdict == verdict for entry in result.safety) for verdict in _VERDICTS}
    found = f"{counted(result.pickles, 'pickle')}, {counted(len(result.safety), 'name')}"
    return (
        f"{found}: {counts['dangerous']} would run code or reach files, "
        f"{counts['unknown'] + counts['inert']} of unknown classes or loose code, {counts['allowed']} that make up "
        "tensors and settings. "
        "Nothing was imported or called."
    )
