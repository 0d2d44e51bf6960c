"""The page a person sees: whether the moments are sound, how far the layers move, and the ones that stand out."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.state.findings import unknown_updates
from fromage_cli.diagnostics.state.replicas import replica_facts
from fromage_cli.diagnostics.state.result import Continuation, GroupState, LayerState, StateResult
from fromage_cli.findings import Finding, gravest_remedy
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.page import Fact, facts, shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number

LEGEND = (
    "Relative update: the size of the last update over that of the weights. RMS: root mean square of the update "
    "before the rate. Lost: share of entries that rounding leaves as they were. Impossible: entries of the moments "
    "that no gradients can have made."
)


def header(result: StateResult) -> tuple[str, ...]:
    """Optimizer, rate and updates so far."""
    rates = {rate for group in result.groups if (rate := known(group.learning_rate)) is not None}
    at = f" at {number(max(rates))}" if rates else ""
    steps = known(result.state_step)
    name = OPTIMIZER_TITLES.get(result.optimizer or "", result.optimizer or "unknown optimizer")
    return (f"{name}{at}", f"{number(steps)} updates" if steps is not None else "")


def verdict(result: StateResult, findings: Sequence[Finding]) -> str:
    """Whether something is wrong, in a sentence."""
    grave = [finding for finding in findings if finding.severity != "info"]
    if grave:
        place = f"{grave[0].layer}: " if grave[0].prefix else ""
        return f"Warning: {place}{grave[0].message}."
    if (why := unknown_updates(result)) is not None:
        return f"No update is known: {why}."
    both = (*result.layers, *result.slots)
    if all(layer.moments_dtype is None for layer in both):
        return "No warning: the optimizer keeps no moments that could be damaged."
    if all(known(layer.violations) is None for layer in both):
        return "No warning. Whether the momentum is sound cannot be told, for no bound holds for it."
    if result.slots:
        return (
            "No warning: every moment is one that gradients can make. "
            f"The tensors of {counted(len(result.slots), 'slot')} are not known, for the state has no names."
        )
    return "No warning: every moment is one that gradients can make."


def render(result: StateResult, style: PageStyle, findings: Sequence[Finding]) -> RenderableType:
    """The whole page, without the findings themselves."""
    told = [*_facts(result), *replica_facts(result.replicas)]
    page: list[RenderableType] = [prose(verdict(result, findings), style), facts(told, style), Text("")]
    ordered = outstanding_first(result)
    shown = shown_rows(ordered, style)
    page.append(_layers(result, shown, style))
    page += hidden_rows(len(shown), len(ordered), "")
    if style.verbose:
        page += [prose(LEGEND, style, "dim"), Text(""), group_table(result.groups, style)]
    return Group(*page)


def outstanding_first(result: StateResult) -> list[LayerState]:
    """Impossible moments first, then what has an update, matrices before vectors, by how far theirs is from the usual.

    Slots whose tensor is not known stand among the tensors.
    """
    whole = known(result.totals.relative_update) or 1.0

    def distance(layer: LayerState) -> tuple[float, bool, bool, float]:
        found, step = known(layer.violations), known(layer.relative_update)
        ratio = 0.0 if step is None else max(step / whole, whole / step) if step > 0.0 else float("inf")
        unknown = isinstance(layer.update_rms, Missing)
        return (-float(found.total if found is not None else 0), unknown, len(layer.shape) < 2, -ratio)

    return sorted((*result.layers, *result.slots), key=distance)


def _facts(result: StateResult) -> list[Fact]:
    totals = result.totals
    found = [
        Fact("Relative update", number(known(totals.relative_update)), "the last step over the size of the weights"),
    ]
    noise = known(totals.noise_rms)
    beside = "" if noise is None else f"; {number(noise)} if gradients were noise alone"
    found.append(Fact("RMS of the update", number(known(totals.update_rms)), f"before the learning rate{beside}"))
    if masters := sum(layer.master for layer in result.layers):
        found.append(Fact("Master copies", number(masters), "tensors have one in float32; steps are measured on it"))
    lost = known(totals.lost)
    if lost is not None:
        half = known(lost.half_rate)
        below = "" if half is None else f"; half of them below a rate of {number(half)}"
        share = known(lost.entries)
        found.append(
            Fact(
                "Lost to rounding",
                "–" if share is None else f"{number(100.0 * share)} %",
                f"of the entries do not move{below}",
            )
        )
    if result.continuity:
        found.append(Fact("Continuity", *continued(result.continuity)))
    for place, group in enumerate(result.groups):
        clock = known(group.timescale)
        if clock is not None:
            of = f" of group {place}" if len(result.groups) > 1 else ""
            left = known(group.remaining)
            words = "" if left is None else f"; {number(100.0 * left)} % of the first weights are left"
            found.append(Fact(f"Decay's clock{of}", f"{number(clock)} steps", f"to replace the weights{words}"))
            break
    return found


def continued(continuity: Sequence[Continuation]) -> tuple[str, str]:
    """How many checkpoints follow from the one before, and why some could not be tested."""
    broken = sum(one.broken for one in continuity)
    untested = [one.first_moments for one in continuity if isinstance(one.first_moments, Missing)]
    right = len(continuity) - broken - (0 if broken else len(untested))
    why = f"; of the rest, {untested[0].words}" if untested and not broken and right else ""
    if untested and not right and not broken:
        return "–", f"cannot be tested: {untested[0].words}"
    return f"{right} of {len(continuity)}", f"checkpoints follow from the one before{why}"


def _layers(result: StateResult, rows: Sequence[LayerState], style: PageStyle) -> RenderableType:
    columns = [
        Column("tensor", name=True),
        Column("relative update"),
        Column("RMS"),
        *([Column("lost")] if known(result.totals.lost) is not None else []),
        Column("decay's share", optional=2),
        Column("below eps", optional=3),
        Column("empty rows", optional=1),
        Column("impossible"),
    ]
    cells = []
    for layer in rows:
        small, wrong = known(layer.epsilon), known(layer.violations)
        rounded = known(layer.lost)
        lost = [None if rounded is None else known(rounded.entries)] if known(result.totals.lost) is not None else []
        cells.append(
            (
                layer.name,
                known(layer.relative_update),
                known(layer.update_rms),
                *lost,
                known(layer.decay_share),
                None if small is None else small.entries,
                known(layer.dead_rows),
                None if wrong is None else wrong.total,
            )
        )
    return house_table(columns, cells, style, [layer.name for layer in (*result.layers, *result.slots)])


def group_table(groups: Sequence[GroupState], style: PageStyle) -> RenderableType:
    """The settings of each parameter group, and the clock of its decay."""
    columns = [
        Column("group"),
        Column("tensors"),
        Column("learning rate"),
        Column("weight decay"),
        Column("decay's clock"),
        Column("first weights left"),
    ]
    cells = [
        (
            place,
            group.tensors,
            known(group.learning_rate),
            known(group.weight_decay),
            known(group.timescale),
            known(group.remaining),
        )
        for place, group in enumerate(groups)
    ]
    return house_table(columns, cells, style)


def advise(findings: Sequence[Finding]) -> str:
    """What the reader can do now."""
    grave = [finding for finding in findings if finding.severity != "info"]
    return gravest_remedy(grave) or "Train on. fromage-diag suggest-lr tells how far a step may go."


def headline(result: StateResult) -> Table:
    """The numbers that the page begins with."""
    totals, lost = result.totals, known(result.totals.lost)
    return summary(
        [
            ("tensors", totals.tensors, "tensors"),
            ("relative_update", totals.relative_update, "relative step"),
            ("update_rms", totals.update_rms, "before the rate"),
            ("noise_rms", totals.noise_rms, "before the rate"),
            ("lost_entries", None if lost is None else lost.entries, "share"),
            ("lost_magnitude", None if lost is None else lost.magnitude, "share"),
            ("impossible", totals.violations, "entries"),
            ("updates", result.state_step, "steps"),
        ]
    )
