"""The sections of a page, each from what the commands answered; one without an answer is left out."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fromage_cli.counting import counted
from fromage_cli.report.figures import MOST_COLUMNS, MOST_ROWS, Curve, MapRow, Mark, balance, curves, ruler, step_map
from fromage_cli.report.gathered import Answered, Gathered
from fromage_cli.report.parts import Figure, Section, figure, sheet
from fromage_cli.report.told import as_number, at, entries_at, known, number_at, numbers_at, steps_at, text_at
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number

LAYER = ("layer", "Its name in the network.")
RATE_MARKS = {
    "measured": "every layer helps",
    "measured-sum": "loss sure to fall",
    "critical": "loss rises",
    "critical-independent": "loss of other rows rises",
    "lemma2-effective": "theory, Lemma 2",
}
"""Estimates of `suggest-lr` on the ruler."""

OUTCOMES = {
    "falls": "In simulated steps at this rate the loss falls.",
    "spikes": "In simulated steps at this rate the loss jumps and comes back.",
    "rises": "In simulated steps at this rate the loss rises.",
    "diverges": "In simulated steps at this rate the loss diverges.",
}
"""Of training in the quadratic model."""
INVARIANCE = {"invariant": "yes", "eps-limited": "yes, but for ε", "approximate": "nearly", "none": "no"}
"""What the verdicts on a layer's scale are called in a table."""


def sections(gathered: Gathered) -> list[Section]:
    """All sections for which there is an answer, in the order in which one reads them."""
    found = [make(gathered) for make in MAKERS]
    return [one for one in found if one is not None and (one.figures or one.sheets or one.sentences)]


def learning_rate(gathered: Gathered) -> Section | None:
    """Where the learning rate stands between zero and each limit."""
    told, curvature = gathered.last("suggest-lr"), gathered.last("sharpness")
    if told is None and curvature is None:
        return None
    estimates = {text_at(one, "name"): number_at(one, "learning_rate") for one in entries_at(told, "estimates")}
    marks = [Mark(rate, words) for name, words in RATE_MARKS.items() if (rate := estimates.get(name))]
    own = number_at(told, "optimizer", "current_learning_rate") or number_at(curvature, "learning_rate")
    name = text_at(told, "optimizer", "name")
    other = text_at(curvature, "optimizer")
    stable = number_at(curvature, "stable_learning_rate") if not name or not other or name == other else None
    best = number_at(told, "recommended", "learning_rate")
    marks += [Mark(stable, "tolerated by the curvature")] if stable else []
    marks += [Mark(best, "rate to train at", "advice")] if best else []
    marks += [Mark(own, "your rate", "you")] if own else []
    optimizer = OPTIMIZER_TITLES.get(name or other, name or other) or "The optimizer"
    sentences = [f"{optimizer} trains at {number(own)}."] if own else []
    if not name and not other:
        sentences.append("The optimizer is not known. Name it and your rate: --optimizer adamw --lr 0.001.")
    if told is not None and (name or other):
        sentences.append(_rate_to_train_at(told))
    if (sure := estimates.get("measured-sum")) is not None:
        sentences.append(f"The loss of the batch is sure to fall by the next step up to a rate of {number(sure)}.")
    caption = "Each mark is a learning rate. A limit for the next step is no rate to train at: training works above it."
    layers = [
        [text_at(one, "name"), *(number_at(one, key) for key in ("learning_rate", "trust_eta", "cosine"))]
        for one in entries_at(told, "layers")
    ]
    columns = (
        LAYER,
        ("own rate", "Learning rate at which this layer moves by the relative step that is sure."),
        ("stops helping at", "Relative step of all layers from which on this one no longer helps."),
        ("cosine", "Between the step and the way straight down the loss: 1 is downhill, 0 mostly noise."),
    )
    picture = ruler(marks, "Learning rates", "learning rate, logarithmic")
    return Section(
        "Learning rate", tuple(sentences), figure(picture, caption), sheet("Layers at the sure step", columns, layers)
    )


def _rate_to_train_at(told: Mapping[str, Any]) -> str:
    """What `suggest-lr` recommends, and how far that can be relied on."""
    rate, low, high = (number_at(told, "recommended", key) for key in ("learning_rate", "low", "high"))
    between = f" between {number(low)} and {number(high)}" if low is not None and high is not None else ""
    reason = text_at(told, "recommended", "reason").rstrip(".")
    if rate is None:
        try_ = f"Rate to train at: try one{between}." if between else "The rate to train at is not known."
        return f"{try_} The reason: {reason}." if reason else try_
    if at(told, "recommended", "reliable") is True:
        return f"Rate to train at: {number(rate)}{',' if between else ''}{between}."
    doubt = f"It is not reliable: {reason}." if reason else "It is not reliable."
    return f"Rate to train at: perhaps {number(rate)}{',' if between else ''}{between}. {doubt}"


def gradients(gathered: Gathered) -> Section | None:
    """How fast each layer's gradient breaks down when the weights move."""
    told = gathered.last("breakdown")
    if told is None:
        return None
    etas = numbers_at(told, "etas")
    ends = {"below-grid": 0.0, "uncertifiable": 0.0}
    layers = sorted(
        entries_at(told, "layers"),
        key=lambda one: number_at(one, "trust_eta") or ends.get(text_at(one, "trust_relation"), math.inf),
    )
    early = [one for one in layers if text_at(one, "trust_relation") == "below-grid"]
    lines = [Curve(text_at(one, "name"), etas, numbers_at(one, "breakdown")) for one in layers]
    picture = curves(
        lines,
        "How fast each layer's gradient changes",
        ("relative step of every layer, η", "change of the gradient, relative to its own size"),
        level=1.0,
    )
    sentences = []
    if early:
        first = f"{text_at(early[0], 'name')} among them" if len(early) > 1 else text_at(early[0], "name")
        verb = "stop" if len(early) > 1 else "stops"
        least = number(etas[0] if etas else None)
        sentences.append(f"{counted(len(early), 'layer')} {verb} helping below {least}, {first}.")
    sentences += [words for key in ("trust", "aggregate_trust") if (words := _sure(told, key, etas))]
    if (rises := number_at(told, "first_increase_eta")) is not None:
        sentences.append(f"The loss rises from a relative step of {number(rises)} on.")
    keys = ("trust_eta", "violation", "implied_depth", "weight_norm", "gradient_norm")
    rows = [[text_at(one, "name"), *(number_at(one, key) for key in keys)] for one in layers]
    columns = (
        LAYER,
        ("stops helping at", "Relative step of all layers from which on this one no longer helps."),
        ("× theory", "How many times faster the gradient changes than deep relative trust predicts."),
        ("like depth", "The number of layers for which Lemma 2 would give this safe step."),
        ("weight norm", "Root of the sum of squares of the weights."),
        ("gradient norm", "The same of the gradient."),
    )
    caption = (
        "The layers that fail first have a line of their own; all others are grey. "
        "At 1, the dashed level, the gradient has changed by as much as its own size."
    )
    return Section("Gradients", tuple(sentences), figure(picture, caption), sheet("Gradients by layer", columns, rows))


def _sure(told: Mapping[str, Any], key: str, etas: Sequence[float | None]) -> str:
    """Up to which relative step the loss is sure to fall, by each layer or as a whole; empty where it is not told."""
    found, relation = number_at(told, f"{key}_eta"), text_at(told, f"{key}_relation")
    of_layers = key == "trust"
    ends = [number(etas[place]) if etas else "" for place in (0, -1)]
    if relation == "above-grid":
        what = "Every layer helps" if of_layers else "The loss as a whole is sure to fall"
        return f"{what} at all steps that were tried, up to {ends[1]}."
    if relation == "below-grid":
        what = "In some layers" if of_layers else "As a whole"
        return f"{what} not even the smallest step, {ends[0]}, is sure to lower the loss."
    if relation == "uncertifiable":
        return "In some layers the step points uphill: judge by the loss as a whole." if of_layers else ""
    if found is None:
        return ""
    first = text_at(told, "limiting_layer")
    if of_layers:
        fails = f"; {first} fails first" if first else ""
        return f"Every layer is sure to help up to a relative step of {number(found)}{fails}."
    return f"The loss as a whole is sure to fall up to {number(found)}."


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
    return step_map(_rows(rows), [number(step) for step in steps], title)


def _rows(values: Mapping[str, Sequence[float | None]]) -> list[MapRow]:
    """In the order given, those that change most."""

    def change(name: str) -> float:
        above = [value for value in known(values[name]) if value > 0.0]
        return math.log(max(above)) - math.log(min(above)) if above else -1.0

    chosen = set(sorted(values, key=change, reverse=True)[:MOST_ROWS])
    return [MapRow(name, row) for name, row in values.items() if name in chosen]


def equilibrium(gathered: Gathered) -> Section | None:
    """Norms: how they change, and where they stand against the equilibrium of weight decay."""
    norms, settled = gathered.last("norms"), gathered.last("intrinsic-lr")
    if norms is None and settled is None:
        return None
    ratios = [
        (text_at(one, "name"), math.exp(max(-50.0, min(50.0, ratio))))
        for one in entries_at(settled, "layers")
        if (ratio := number_at(one, "log_ratio")) is not None
    ]
    ratios.sort(key=lambda one: -abs(math.log(one[1])))
    picture = balance(
        ratios[:MOST_ROWS],
        "Norm of each layer over its equilibrium norm",
        ("below equilibrium: will grow", "above: will shrink"),
    )
    by_name = {text_at(one, "name"): one for one in entries_at(settled, "layers")}
    layers = {text_at(one, "name"): one for one in entries_at(norms, "layers")} or by_name
    rows = []
    for name, layer in layers.items():
        other = by_name.get(name, {})
        growth = number_at(layer, "growth_per_step")
        rows.append(
            [
                name,
                number_at(layer, "last_norm") or number_at(other, "norm"),
                None if growth is None else 100.0 * growth,
                INVARIANCE.get(text_at(layer, "invariance", "verdict") or text_at(other, "verdict")),
                number_at(other, "equilibrium_norm"),
                number_at(other, "steps_to_equilibrium"),
                number_at(other, "expected_rotation"),
                number_at(other, "observed_rotation"),
            ]
        )
    columns = (
        LAYER,
        ("norm", "Root of the sum of squares of the weights, at the last checkpoint."),
        ("growth, % a step", "How much the norm grows per step."),
        ("scale-invariant", "Whether doubling or halving the layer leaves the outputs unchanged."),
        ("equilibrium norm", "The norm at which weight decay and gradients balance."),
        ("steps to it", "Training steps until the norm is within 10 % of it."),
        ("expected rotation", "Radians that random gradients at equilibrium would turn the layer by."),
        ("observed rotation", "Radians that it turned by between the last two checkpoints."),
    )
    named = len(ratios)
    reasons = (text_at(one, "missing", "equilibrium_norm", "reason") for one in entries_at(settled, "layers"))
    why = next((f": {reason.rstrip('.')}" for reason in reasons if reason), "")
    least, largest = (number(each((ratio for _, ratio in ratios), default=1.0)) for each in (min, max))
    now = f"{least} ×" if least == largest else f"{least} to {largest} ×"
    sentences = [
        f"{counted(named, 'layer')} {'has' if named == 1 else 'have'} an equilibrium norm, {now} of it now."
        if named
        else f"No layer has an equilibrium norm{why}."
    ]
    if settled is None:
        sentences = []
    caption = "Layers furthest from equilibrium come first. At 1 the norm has settled."
    figures = (*figure(picture, caption), *_forecast(settled))
    return Section("Norms and equilibrium", tuple(sentences), figures, sheet("Norms by layer", columns, rows))


def _forecast(settled: Mapping[str, Any] | None) -> tuple[Figure, ...]:
    """The norms of layers along the run, and on to the end of its schedule where that is known."""
    steps = steps_at(settled, "steps")
    lines = [
        Curve(
            text_at(one, "name"),
            [*steps, *steps_at(one, "forecast", "steps")],
            [*numbers_at(one, "norms"), *numbers_at(one, "forecast", "norms")],
        )
        for one in entries_at(settled, "layers")
        if numbers_at(one, "forecast", "steps")
    ]
    picture = curves(lines, "Forecast of the norms", ("step", "norm of each layer"), steps=True)
    return figure(picture, f"After step {number(steps[-1] if steps else None)} it is a forecast, along the schedule.")


def optimizer_state(gathered: Gathered) -> Section | None:
    """What the optimizer's state says of the next update."""
    told = gathered.last("state")
    if told is None:
        return None
    keys = ("relative_update", "update_rms", "decay_share", "learning_rate")
    rows = [
        [text_at(one, "name"), *(number_at(one, key) for key in keys), number_at(one, "lost", "entries")]
        for one in entries_at(told, "layers")
    ]
    columns = (
        ("tensor", "Its name in the network."),
        ("update over weights", "Size of the next update as a share of the weights."),
        ("update, per rate", "Root mean square of the next update at a learning rate of 1."),
        ("share of decay", "Part of the update that is weight decay."),
        ("learning rate", "Of the tensor's parameter group."),
        ("share lost", "Share of the entries whose update is lost to rounding."),
    )
    whole = number_at(told, "totals", "relative_update")
    sentences = () if whole is None else (f"The next update changes the weights by {number(whole)} of their norm.",)
    return Section("Next update", sentences, (), sheet("Next update by tensor", columns, rows))


def attention(gathered: Gathered) -> Section | None:
    """Attention in the forward pass of `check`."""
    told = gathered.last("check")
    rows = []
    for block in entries_at(told, "forward_pass", "attention"):
        for head in entries_at(block, "heads"):
            keys = ("largest_logit", "entropy_share", "one_key_share")
            name = f"{text_at(block, 'module')}, head {number(number_at(head, 'head'))}"
            rows.append([name, *(number_at(head, key) for key in keys)])
    columns = (
        ("head", "The attention module and the number of its head."),
        ("largest logit", "Largest score before the softmax; above 50 or so training often becomes unstable."),
        ("entropy", "Of the weights, as a share of the largest possible; near 0 each query sees one key."),
        ("queries on one key", "Share of queries that give one key nearly all weight."),
    )
    found = sheet("Attention by head", columns, rows)
    if not found:
        return None
    largest = max((row[1] for row in rows if isinstance(row[1], float)), default=None)
    sentences = () if largest is None else (f"The largest attention logit is {number(largest)}.",)
    return Section("Attention", sentences, (), found)


def curvature(gathered: Gathered) -> Section | None:
    """Sharpness and what it means for the rate."""
    told = gathered.last("sharpness")
    if told is None:
        return None
    ratio, loss = number_at(told, "ratio"), number_at(told, "loss")
    losses = numbers_at(told, "quadratic", "line_losses")
    rates = numbers_at(told, "quadratic", "rates")
    lines = [
        Curve("the network", rates, losses),
        Curve("its quadratic model", rates, numbers_at(told, "quadratic", "line_model_losses")),
    ]
    title = ("learning rate of the next step", "loss on the batch")
    sentences = []
    own, outcome = number_at(told, "learning_rate"), text_at(told, "quadratic", "outcome")
    if ratio is not None and ratio > 0.0:
        rate = "" if own is None else f" at {number(own)}"
        sentences.append(f"The curvature is {number(100.0 * ratio)} % of what the optimizer tolerates{rate}.")
    elif reason := text_at(told, "missing", "ratio", "reason"):
        sentences.append(f"It is not held against the rate: {reason.rstrip('.')}.")
    if outcome in OUTCOMES:
        sentences.append(OUTCOMES[outcome])
    caption = f"The loss along the next step, which is {number(loss)} before it."
    rows = [
        [f"{place + 1}", number_at(one, "value"), number_at(one, "residual")]
        for place, one in enumerate(entries_at(told, "eigenvalues"))
    ]
    columns = (
        ("number", "The largest first."),
        ("curvature", "Eigenvalue of the Hessian: how sharply the loss bends along one direction."),
        ("residual", "How far it can be off."),
    )
    return Section(
        "Curvature",
        tuple(sentences),
        figure(curves(lines, "Loss along the next step", title), caption),
        sheet("Largest curvatures", columns, rows),
    )


def regularisation(gathered: Gathered) -> Section | None:
    """Which way weight decay, dropout and label smoothing should move."""
    told = gathered.last("hypergrad")
    if told is None:
        return None
    rows = [
        [
            f"{text_at(one, 'name')} ({text_at(one, 'scope')})",
            number_at(one, "value"),
            text_at(one, "advice") or None,
            number_at(one, "expected_change"),
        ]
        for one in entries_at(told, "hyperparameters")
        if text_at(one, "advice")
    ]
    columns = (
        ("hyperparameter", "What is moved, and for which tensors."),
        ("now", "Its value in training."),
        ("advice", "What to do, from the change of the validation loss."),
        ("change of the loss", "How much the validation loss would change."),
    )
    return Section("Regularisation", (), (), sheet("Which way to move", columns, rows))


def distance(gathered: Gathered) -> Section | None:
    """How far two checkpoints are apart."""
    told = gathered.last("distance")
    if told is None:
        return None
    layers = sorted(entries_at(told, "layers"), key=lambda one: -(number_at(one, "relative_distance") or 0.0))
    keys = ("relative_distance", "angle", "first_norm", "second_norm")
    rows = [[text_at(one, "name"), *(number_at(one, key) for key in keys)] for one in layers]
    columns = (
        LAYER,
        ("moved", "Distance as a share of the layer's first norm."),
        ("angle", "Radians between both."),
        ("norm before", "Of the first checkpoint."),
        ("norm after", "Of the second."),
    )
    first, second, outputs = (number_at(told, key) for key in ("first_step", "second_step", "function_distance"))
    between = f" between step {number(first)} and step {number(second)}" if first is not None and second else ""
    moved = text_at(layers[0], "name") if layers else ""
    sentences = [f"{moved} moved most{between}."] if moved else []
    sentences += [] if outputs is None else [f"The outputs differ by {number(100.0 * outputs)} %{between}."]
    return Section("Distance", tuple(sentences), (), sheet("Distance by layer", columns, rows))


def numbers(gathered: Gathered) -> Section | None:
    """What was asked, and every headline number of `check`."""
    told = gathered.last("check")
    rows = [
        [f"{text_at(one, 'command')}: {text_at(one, 'name').replace('_', ' ')}", number_at(one, "value"),
         text_at(one, "unit")]
        for one in entries_at(told, "numbers")
    ]  # fmt: skip
    columns = (("number", "Command and name."), ("value", "As measured."), ("unit", "What it counts."))
    asked = [
        [
            text_at(one, "command"),
            text_at((entries_at(one, "checkpoints") or [{}])[-1], "path") or "none",
            text_at(one, "status"),
            number_at(one, "tool", "seconds"),
            text_at(one, "tool", "version"),
        ]
        for one in gathered.answers
    ]
    answers = (
        ("command", "What was asked."),
        ("checkpoint", "The last that it looked at."),
        ("status", "ok, warn, fail or error."),
        ("seconds", "That it took."),
        ("version", "Of fromage-diag."),
    )
    return Section(
        "All numbers", (), (), (*sheet("Headline numbers", columns, rows), *sheet("Answers", answers, asked))
    )


MAKERS: tuple[Callable[[Gathered], Section | None], ...] = (
    *(learning_rate, gradients, along_the_run, equilibrium, optimizer_state, attention),
    *(curvature, regularisation, distance, numbers),
)
