"""The page a person sees: whether the moments are sound, how far the layers move, and the ones that stand out."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.state.discontinuities import short_name
from fromage_cli.diagnostics.state.findings import unknown_updates
from fromage_cli.diagnostics.state.replicas import replica_facts
from fromage_cli.diagnostics.state.result import Continuation, GroupState, LayerState, StateResult
from fromage_cli.findings import Finding, gravest_remedy
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.page import Fact, facts, shown_rows
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, number_range

LEGEND = (
    "Relative update: the size of the last update over that of the weights, without weight decay and before rounding. "
    "RMS: root mean square of the update before the learning rate. Lost: share of entries that rounding leaves as they "
    "were. Decay's share: the part of the step that weight decay makes. Below eps: share of entries whose step eps "
    "decides. Empty rows: rows that never had a gradient. Impossible: entries of the moments that no gradients can "
    "have made. The tensor that is most unlike the whole network stands first."
)
LITTLE = 1e-6
"""Rate over the highest of the files, from which on a run is not over."""


def header(result: StateResult) -> tuple[str, ...]:
    """Optimizer, rate and updates so far."""
    rates = {rate for group in result.groups if (rate := known(group.learning_rate)) is not None}
    at = f" at {number_range(min(rates), max(rates))}" if rates else ""
    steps = known(result.state_step)
    name = OPTIMIZER_TITLES.get(result.optimizer or "", result.optimizer or "unknown optimizer")
    return (f"{name}{at}", f"{number(steps)} updates" if steps is not None else "")


def is_over(result: StateResult) -> bool:
    """Whether the schedule has brought the learning rate to 0."""
    rates = [rate for one in result.files if (rate := known(one.learning_rate)) is not None]
    return bool(rates) and rates[-1] <= LITTLE * max(rates)


def verdict(result: StateResult, findings: Sequence[Finding]) -> str:
    """Whether something is wrong, in a sentence."""
    grave = [finding for finding in findings if finding.severity != "info"]
    if grave:
        place = f"{grave[0].layer}: " if grave[0].prefix else ""
        return f"Warning: {place}{grave[0].message.removesuffix('…').rstrip()}."
    if (why := unknown_updates(result)) is not None:
        return f"No update is known: {why}."
    both = (*result.layers, *result.slots)
    if all(layer.moments_dtype is None for layer in both):
        return "No problem found: the optimizer keeps no moments that could be damaged."
    if all(known(layer.violations) is None for layer in both):
        return "No problem found. Whether the momentum is sound cannot be told, for no bound holds for it."
    if result.slots:
        return (
            "No problem found: the optimizer's moments are consistent. "
            f"The tensors of {counted(len(result.slots), 'slot')} are not known, for the state has no names."
        )
    return "No problem found: the optimizer's moments are consistent."


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
        page += [Text(""), file_table(result, style)] if len(result.files) > 1 else []
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
        Fact("Relative update", number(known(totals.relative_update)), "the last update over the size of the weights"),
    ]
    noise = known(totals.noise_rms)
    beside = "" if noise is None else f"; {number(noise)} if gradients were noise, 1 if all agreed"
    found.append(Fact("RMS of the update", number(known(totals.update_rms)), f"before the learning rate{beside}"))
    if masters := sum(layer.master for layer in result.layers):
        found.append(Fact("Master copies", number(masters), "tensors have one in float32; steps are measured on it"))
    lost = known(totals.lost)
    if lost is not None and (share := known(lost.entries)) is not None:
        half = known(lost.half_rate)
        below = "" if half is None else f"; below a rate of {number(half)} most do not"
        found.append(Fact("Lost to rounding", f"{number(100.0 * share)} %", f"of the entries did not move{below}"))
    if result.continuity:
        found.append(Fact("Continuity", *continued(result.continuity)))
    if (fact := decay_fact(result)) is not None:
        found.append(fact)
    return found


def decay_fact(result: StateResult) -> Fact | None:
    """What weight decay has left of the first weights, in the first group that has some."""
    for place, group in enumerate(result.groups):
        clock, left = known(group.timescale), known(group.remaining)
        if clock is None:
            continue
        of = f" of group {place}" if len(result.groups) > 1 else ""
        always = "" if group.rates_told else ", if the rate was always this"
        words = "" if left is None else f"; {number(100.0 * left)} % of the first weights are left{always}"
        return Fact(f"Weight decay{of}", f"{number(clock)} steps", f"to replace most weights at this rate{words}")
    return None


def continued(continuity: Sequence[Continuation]) -> tuple[str, str]:
    """How many checkpoints follow from the one before, and why some could not be tested."""
    broken = sum(one.broken for one in continuity)
    untested = [one.first_moments for one in continuity if isinstance(one.first_moments, Missing)]
    doubtful = sum(not one.broken and bool((far := known(one.weights)) and far.entries) for one in continuity)
    right = len(continuity) - broken - doubtful - (0 if broken else len(untested))
    why = f"; of the rest, {untested[0].words}" if untested and not broken and right else ""
    if untested and not right and not broken:
        return "–", f"cannot be tested: {untested[0].words}"
    return f"{right} of {len(continuity)}", f"files follow from the file before{why}"


def _layers(result: StateResult, rows: Sequence[LayerState], style: PageStyle) -> RenderableType:
    everyone = (*result.layers, *result.slots)
    columns = [
        (Column("tensor", name=True), [layer.name for layer in rows]),
        (Column("relative update"), [known(layer.relative_update) for layer in rows]),
        (Column("RMS"), [known(layer.update_rms) for layer in rows]),
        (Column("lost"), [None if (lost := known(one.lost)) is None else known(lost.entries) for one in rows]),
        (Column("decay's share", optional=2), [known(layer.decay_share) for layer in rows]),
        (Column("below eps", optional=3), [None if (e := known(one.epsilon)) is None else e.entries for one in rows]),
        (Column("empty rows", optional=1), [known(layer.dead_rows) for layer in rows]),
        (Column("impossible"), [None if (v := known(one.violations)) is None else v.total for one in rows]),
    ]
    told = {
        "lost": any(known(one.lost) is not None for one in everyone),
        "empty rows": any(known(one.dead_rows) for one in everyone),
        "impossible": any((found := known(one.violations)) is not None and found.total for one in everyone),
    }
    shown = [pair for pair in columns if told.get(pair[0].header, True)]
    cells = list(zip(*(values for _, values in shown), strict=True))
    return house_table([column for column, _ in shown], cells, style, [layer.name for layer in everyone])


def file_table(result: StateResult, style: PageStyle) -> RenderableType:
    """A line for each checkpoint."""
    columns = [
        Column("file", name=True),
        Column("updates"),
        Column("learning rate"),
        Column("relative update"),
        Column("RMS"),
        *([Column("lost")] if any(known(one.lost) is not None for one in result.files) else []),
        Column("impossible"),
    ]
    cells = []
    for one in result.files:
        lost = [] if len(columns) == 6 else [None if (found := known(one.lost)) is None else known(found.entries)]
        numbers = (known(one.updates), known(one.learning_rate), known(one.relative_update), known(one.update_rms))
        cells.append((short_name(one.path), *numbers, *lost, one.violations))
    return house_table(columns, cells, style, [short_name(one.path) for one in result.files])


def group_table(groups: Sequence[GroupState], style: PageStyle) -> RenderableType:
    """The settings of each parameter group, and the steps in which its decay acts."""
    columns = [
        Column("group"),
        Column("tensors"),
        Column("learning rate"),
        Column("weight decay"),
        Column("decay acts in"),
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


def advise(findings: Sequence[Finding], *, over: bool) -> str:
    """What the reader can do now; `over`: whether the learning rate has come to 0."""
    grave = [finding for finding in findings if finding.severity != "info"]
    healthy = "Nothing to do: the schedule has ended." if over else "Train on. Nothing here asks for a change."
    if any(finding.code == "never-updated" for finding in findings):
        healthy = "Train on if these layers are frozen on purpose. Else look whether the optimizer has them."
    return gravest_remedy(grave) or healthy


def told_above(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The code of the finding that the first line says, where no other has it."""
    grave = [finding.code for finding in findings if finding.severity != "info"]
    return (grave[0],) if grave and grave.count(grave[0]) == 1 else ()


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
