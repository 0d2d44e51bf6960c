"""What a command returns: plain numbers, and how a person and a script see them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from fromage_cli.errors import FromageError
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing
from fromage_cli.terminal.words import in_bytes, in_seconds, number

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Provenance:
    """How an answer was computed; seconds, memory and versions are added when it is shown."""

    device: str
    """`cpu`, `cuda:0` …"""
    dtype: str
    """Type of the weights while computing."""
    gradient_evaluations: float = 0.0
    """In full-batch equivalents: a chunk counts as its fraction."""
    forward_evaluations: float = 0.0
    """Likewise, forward passes without a gradient."""
    hvp_evaluations: float = 0.0
    """Likewise, Hessian-vector products."""
    peak_memory: int = 0
    """Bytes; of several ranks the largest so far."""
    peak_device_memory: int = 0
    """Likewise on accelerators; 0 where none is used."""


@dataclass(frozen=True)
class CheckpointRecord:
    """Which checkpoint was read, and how."""

    path: str
    format: str
    step: int | None
    parameters: int
    stripped: Sequence[str] = ()
    """Wrapper prefixes taken off the names."""


@dataclass(frozen=True)
class NoiseRecord:
    """How far loss and gradient are from one draw of the network's random numbers to another."""

    seeds: int
    """How many draws were looked at, the one that was measured among them."""
    loss_mean: float
    loss_spread: float
    """The standard deviation of the loss over the draws."""
    gradient_spread: float
    """The standard deviation of the gradient over the draws, over the norm of its mean."""


@dataclass(frozen=True)
class ProblemRecord:
    """Which model, loss and batch were measured."""

    model: str
    loss: str
    batch_size: int
    mode: str
    seed: int
    layer_count: int
    noise: NoiseRecord | None = None
    """Where the network draws random numbers that change the loss."""


@dataclass(frozen=True)
class Table:
    """Rows for a script: untruncated, in model order."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class Look:
    """What one of several commands had to say, where an answer rests on them."""

    command: str
    findings: tuple[Finding, ...] = ()
    skipped: str | None = None
    """Why it could not look: a sentence."""


@dataclass(frozen=True)
class PageStyle:
    """What the reader's terminal and flags ask of a page."""

    show_all: bool = False
    """Every row, not the offenders alone (`--all`)."""
    ascii_only: bool = False
    """The stream can write ASCII only."""
    width: int = 80
    """In cells."""
    verbose: bool = False
    """What only some readers want too (`-v`)."""


@dataclass(frozen=True)
class Answer:
    """One command's answer; the terminal turns it into a page, a table or an envelope."""

    result: object
    """A frozen dataclass (or mapping) of plain numbers; its field names are the JSON keys."""
    page: "Callable[[PageStyle], RenderableType]"
    """What a person sees."""
    tables: Mapping[str, Callable[[], Table]] = field(default_factory=dict)
    """By name; the first is the main one."""
    header: tuple[str, ...] = ()
    """What was measured, in a few words each, the most important first: the first line of a page."""
    advice: str = ""
    """What the reader can do now: the last line of a page. Of warnings and failures the remedy stands there instead."""
    findings: tuple[Finding, ...] = ()
    looks: tuple[Look, ...] = ()
    """Of an answer that rests on several commands: each of them, with its part of the findings."""
    told: tuple[str, ...] = ()
    """Kinds of findings that the page says itself; below it they stand only under `-v`."""
    checkpoints: tuple[CheckpointRecord, ...] = ()
    problem: ProblemRecord | None = None
    provenance: Provenance | None = None
    notes: tuple[str, ...] = ()
    """Sentences said on standard error."""
    details: tuple[str, ...] = ()
    """The same, but beside a page only under `-v`: its header says them in short."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What a flag became where that differs from what was given (`mode`: `auto` → `eval`)."""
    error: FromageError | None = None
    """Set on a partial answer: that is shown first, then this, with its exit code."""
    alone: str | None = None
    """Where one value alone is asked for: what is written instead of page, table or envelope."""
    code: int = 0
    """The least exit code of the answer."""

    @property
    def numbers(self) -> tuple[tuple[str, object, str], ...]:
        """The headline: name, value and unit of each number that is there."""
        rows = self.tables["summary"]().rows if "summary" in self.tables else ()
        named = ((str(name), value, str(unit)) for name, value, unit in rows)
        return tuple(row for row in named if row[1] is not None and not isinstance(row[1], Missing))


def provenance_of_all(answers: Iterable[Answer]) -> Provenance:
    """How several answers were computed: where the last was that needed a network, and all evaluations."""
    told = [one.provenance for one in answers if one.provenance is not None]
    where = next((one for one in reversed(told) if one.forward_evaluations or one.gradient_evaluations), None)
    return Provenance(
        device=where.device if where is not None else "cpu",
        dtype=where.dtype if where is not None else "float64",
        gradient_evaluations=sum(one.gradient_evaluations for one in told),
        forward_evaluations=sum(one.forward_evaluations for one in told),
        hvp_evaluations=sum(one.hvp_evaluations for one in told),
        peak_memory=max((one.peak_memory for one in told), default=0),
        peak_device_memory=max((one.peak_device_memory for one in told), default=0),
    )


Answers = Answer | Sequence[Answer | FromageError]
"""What a command returns: its answer, or for each of the checkpoints it was given one, or why there is none."""


def records(items: Sequence[object]) -> Table:
    """Dataclasses as rows: columns named as the fields, arrays left out, nested ones flattened as `outer_inner`.

    What is missing is an empty cell; where a nested one is missing, its columns are there all the same, and empty.
    """
    rows = [dict(_cells(item)) for item in items]
    columns = dict.fromkeys(name for row in rows for name in row)
    return Table(tuple(columns), tuple(tuple(row.get(name) for name in columns) for row in rows))


def summary(numbers: Sequence[tuple[str, object, str]]) -> Table:
    """The headline of an answer as a table: name, value and unit of each number; a missing one is an empty cell."""
    return Table(("name", "value", "unit"), tuple(numbers))


def _cells(item: object, prefix: str = "") -> list[tuple[str, object]]:
    cells: list[tuple[str, object]] = []
    kind: Any = type(item)
    named = item if isinstance(item, Mapping) else {entry.name: getattr(item, entry.name) for entry in fields(kind)}
    for name, held in named.items():
        value = None if isinstance(held, Missing) else held
        if isinstance(value, list | tuple):
            continue
        if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
            cells.extend(_cells(value, f"{prefix}{name}_"))
        else:
            endings = _endings(kind, name) if value is None else ("",)
            cells.extend((f"{prefix}{name}{ending}", value) for ending in endings)
    return cells


@cache
def _endings(kind: Any, name: str) -> tuple[str, ...]:
    """What follows a field's name in its columns where it is empty: the fields of the dataclass that it might be."""
    hint = get_type_hints(kind)[name] if is_dataclass(kind) else None
    kinds = (one for one in (hint, *get_args(hint)) if isinstance(one, type) and one is not Missing)
    nested = next(filter(is_dataclass, kinds), None)
    if nested is None:
        return () if get_origin(hint) is tuple else ("",)
    return tuple(f"_{entry.name}{rest}" for entry in fields(nested) for rest in _endings(nested, entry.name))


@dataclass(frozen=True)
class Estimate:
    """The cost of an answer."""

    gradients: float
    """Gradients of the whole batch, or what takes as long."""
    bytes: int | None
    """Memory held at most."""
    seconds: float | None
    """On this device."""

    @classmethod
    def of_all(cls, told: Sequence["Estimate"]) -> "Estimate":
        """What several answers take, one after the other."""
        return cls(
            gradients=sum(one.gradients for one in told),
            bytes=max((one.bytes for one in told if one.bytes is not None), default=None),
            seconds=sum(one.seconds or 0.0 for one in told),
        )


@dataclass(frozen=True)
class EstimateResult:
    """What a command answers under `--estimate`."""

    estimate: Estimate


def estimate_answer(estimate: Estimate) -> Answer:
    """The answer of a command under `--estimate`: a sentence for a person, three digits a number in tables."""

    def table() -> Table:
        seconds = None if estimate.seconds is None else _digits(estimate.seconds)
        return records([replace(estimate, gradients=_digits(estimate.gradients), seconds=seconds)])

    def page(style: PageStyle) -> "RenderableType":
        from rich.text import Text

        return Text(spoken(estimate))

    numbers = [
        ("gradients", estimate.gradients, "gradients"),
        ("bytes", estimate.bytes, "bytes"),
        ("seconds", estimate.seconds, "s"),
    ]
    return Answer(EstimateResult(estimate), page=page, tables={"estimate": table, "summary": lambda: summary(numbers)})


def spoken(estimate: Estimate) -> str:
    """The cost in a line: `about 20 s, 271 MB (66 gradients of the whole batch)`."""
    told = [] if estimate.seconds is None else [in_seconds(estimate.seconds)]
    told += [] if estimate.bytes is None else [in_bytes(estimate.bytes)]
    gradients = f" ({number(_digits(estimate.gradients))} gradients of the whole batch)" if estimate.gradients else ""
    return f"about {', '.join(told)}{gradients}"


def _digits(value: float) -> float:
    """Three digits of it: more would promise too much."""
    return float(f"{value:.3g}")
