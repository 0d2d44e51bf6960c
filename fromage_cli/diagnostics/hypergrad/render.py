"""The page a person sees: each hyperparameter, what moving it does to the validation loss, and the advice."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.hypergrad.advice import move_of, title
from fromage_cli.diagnostics.hypergrad.result import (
    CONTINUED,
    DELTA_STN,
    UNROLL,
    HypergradResult,
    HyperparameterAnswers,
    MethodAnswer,
)
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.answer import PageStyle, Table, records, summary
from fromage_cli.terminal.page import Fact, facts
from fromage_cli.terminal.tables import Column, house_table, prose
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number

TOLD = ("raise-hyperparameter", "lower-hyperparameter")
"""Findings that the last line of the page says."""
_COLOURS = {"raise": "yellow", "lower": "yellow"}
AHEAD = (CONTINUED, UNROLL)


def header(result: HypergradResult) -> tuple[str, ...]:
    """Optimizer, rate and horizon."""
    name = OPTIMIZER_TITLES.get(result.optimizer or "", "")
    rate = known(result.learning_rate)
    trained = f"{name} at {number(rate)}" if name and rate else name
    return (trained, f"{result.val_rows} validation rows")


def render(result: HypergradResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    page: list[RenderableType] = [facts(_facts(result), style), Text("")]
    page.append(prose("Change of the validation loss if a value is raised:", style))
    wide = [one for one in result.hyperparameters if one.direction is not None]
    narrow = [one for one in result.hyperparameters if one.direction is None]
    page.append(_table(wide, result, style))
    if style.show_all and narrow:
        page += [Text(""), _table(narrow, result, style)]
    elif narrow:
        page.append(Text(f"{len(narrow)} more, single layers and the learning rate: --all", style="dim"))
    page += [prose(sentence, style) for sentence in _what_columns_say(result)]
    if style.verbose:
        page += [Text(""), _details(result, style), *_about_the_solve(result, style)]
        page.append(prose(_ABOUT_THE_RATE, style))
    return Group(*page)


_ABOUT_THE_RATE = (
    "The learning rate is never advised on here: few steps prefer small rates. Ask fromage-diag suggest-lr instead."
)


def _what_columns_say(result: HypergradResult) -> list[str]:
    """Which steps and which resting point the columns are about, and which of them the advice follows."""
    settled = "where training would end up, by a model of the curvature"
    if not result.steps:
        hint = "" if known(result.learning_rate) else " For the next steps name --optimizer and --lr."
        return [f"Settled: {settled}.{hint}"]
    ahead = f"In {counted(result.steps, 'step')}: those steps really taken, with the value moved up and down."
    settled_answers = [a.gradient for one in result.hyperparameters for a in one.answers if a.method not in AHEAD]
    missing = [gradient for gradient in settled_answers if isinstance(gradient, Missing)]
    if missing and len(missing) == len(settled_answers):
        return [ahead, f"Settled is not known: {missing[0].words.rstrip('.')}."]
    return [ahead, f"Settled: {settled}. The advice follows the steps, which were really taken."]


def _about_the_solve(result: HypergradResult, style: PageStyle) -> list[RenderableType]:
    """How exact the answer of the settled weights is."""
    found = []
    solved = (a for h in result.hyperparameters for a in h.answers if a.method != DELTA_STN)
    one = next((answer for answer in solved if known(answer.residual) is not None), None)
    if one is not None:
        damping = known(result.damping)
        added = "" if damping is None else f" with {number(damping)} added to the curvature"
        found.append(
            f"Settled: solved to a residual of {number(one.residual)} in {number(one.iterations)} products{added}."
        )
    layers = known(result.invariant_layers)
    if layers:
        words = "is scale-invariant" if len(layers) == 1 else "are scale-invariant"
        found.append(
            f"{counted(len(layers), 'layer')} {words}: weight decay sets how fast they turn, not where they end."
        )
    shape = known(result.conditioning)
    if shape is not None:
        found.append(
            f"Delta-STN on {shape.layer}: condition number {number(shape.centred)} centred, "
            f"{number(shape.uncentred)} uncentred."
        )
    return [prose(sentence, style) for sentence in found]


def _facts(result: HypergradResult) -> list[Fact]:
    after, change = known(result.val_loss_after), ""
    found = [Fact("Validation loss", number(result.val_loss), "now, in evaluation mode")]
    if result.steps and after is not None:
        change = f"after {counted(result.steps, 'more step')}, {result.batches}"
        found.append(Fact("", number(after), change))
    wide = [one for one in result.hyperparameters if one.scope == "all" and one.value]
    added = " and ".join(title(one.name) for one in wide if one.name not in ("weight-decay", "learning-rate"))
    found.append(Fact("Training loss", number(result.train_loss), f"now, with {added}" if added else "now"))
    return found


def _table(rows: Sequence[HyperparameterAnswers], result: HypergradResult, style: PageStyle) -> RenderableType:
    ahead = f"in {result.steps} steps" if result.steps else ""
    columns = [
        Column("hyperparameter", left=True),
        Column("raised from, to"),
        *([Column(ahead), Column("±"), Column("settled", optional=1)] if ahead else [Column("settled"), Column("±")]),
        Column("advice", left=True),
    ]
    cells = []
    for one in rows:
        move = move_of(one)
        near = next(
            (answer for method in AHEAD if (answer := one.by(method)) and known(answer.gradient) is not None), None
        )
        far = next((answer for answer in one.answers if answer.method not in AHEAD), None)
        shown = [(near, "gradient"), (near, "stderr"), (far, "gradient")]
        cells.append(
            (
                title(one.name, one.scope),
                f"{number(one.value)} → {number(one.value + move)}",
                *(_times(*each, move) for each in (shown if ahead else [(far, "gradient"), (far, "stderr")])),
                Text(one.direction or "", _COLOURS.get(one.direction or "", "")),
            )
        )
    return house_table(columns, cells, style)


def _times(answer: MethodAnswer | None, field: str, move: float) -> float | None:
    value = known(getattr(answer, field)) if answer is not None else None
    return None if value is None else value * move


def _details(result: HypergradResult, style: PageStyle) -> RenderableType:
    """Each answer of each method."""
    columns = [
        Column("hyperparameter", left=True),
        Column("method", left=True),
        Column("per unit"),
        Column("±"),
        Column("smooth"),
        Column("less damped", optional=1),
        Column("more damped", optional=1),
    ]
    cells = [
        (
            title(one.name, one.scope),
            answer.method,
            answer.gradient,
            answer.stderr,
            answer.metasmoothness,
            answer.less_damped,
            answer.more_damped,
        )
        for one in result.hyperparameters
        if one.direction is not None or one.scope == "all"
        for answer in one.answers
    ]
    return house_table(columns, cells, style)


def advise(result: HypergradResult) -> str:
    """What the reader can do now: the move that promises most, else the first reason for none."""
    wide = [one for one in result.hyperparameters if one.scope == "all" and one.advice]
    moves = [one for one in wide if one.direction in ("raise", "lower")]
    best = min(moves, key=lambda one: known(one.expected_change) or 0.0, default=None)
    if best is not None and best.advice:
        return best.advice
    told = sorted(wide, key=lambda one: one.direction != "unclear")
    if told and told[0].advice:
        more = " More validation rows, or more steps, may tell." if told[0].direction == "unclear" else ""
        return f"{told[0].advice}{more}"
    return "There is nothing to move: this run has no weight decay, dropout, label smoothing or number of its own loss."


def answers_table(result: HypergradResult) -> Table:
    """Every answer of every method as a row."""
    rows = [(one.name, one.scope, one.value, answer) for one in result.hyperparameters for answer in one.answers]
    table = records([answer for *_, answer in rows])
    return Table(
        ("name", "scope", "value", *table.columns),
        tuple((*row[:3], *cells) for row, cells in zip(rows, table.rows, strict=True)),
    )


def headline(result: HypergradResult) -> Table:
    """The numbers that the page begins with."""
    numbers: list[tuple[str, object, str]] = [
        ("val_loss", result.val_loss, "loss"),
        ("val_loss_after", result.val_loss_after, "loss"),
        ("train_loss", result.train_loss, "loss"),
        ("steps", result.steps, "steps"),
    ]
    for one in result.hyperparameters:
        if one.scope == "all" and one.direction is not None:
            key = one.name.replace("-", "_")
            numbers += [(f"{key}_direction", one.direction, "word"), (f"{key}_change", one.expected_change, "loss")]
    return summary(numbers)
