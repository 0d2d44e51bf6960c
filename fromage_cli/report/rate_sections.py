"""Where the learning rate stands between its limits, and what the curvature says of it."""

from collections.abc import Mapping
from typing import Any

from fromage_cli.missing import Why
from fromage_cli.report.figures import Curve, Mark, curves, ruler
from fromage_cli.report.gathered import Gathered
from fromage_cli.report.parts import LAYER, Section, figure, sheet
from fromage_cli.report.told import at, entries_at, number_at, numbers_at, text_at
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, number_range

RATE_MARKS = {
    "measured": "every layer helps",
    "measured-sum": "loss sure to fall",
    "critical": "loss rises",
    "critical-independent": "loss of other rows rises",
    "lemma2-effective": "theory, Lemma 2",
}
"""Estimates of `suggest-lr` on the ruler."""

ASK_FOR_RUNS = (
    "The rate to train at is not known. Short runs of `fromage-diag suggest-lr CKPT` tell it. "
    "Save its answer as JSON, and give report that file as well."
)
"""Where no short runs were asked for."""
OUTCOMES = {
    "falls": "In simulated steps at this rate the loss falls.",
    "spikes": "In simulated steps at this rate the loss jumps and comes back.",
    "rises": "In simulated steps at this rate the loss rises.",
    "diverges": "In simulated steps at this rate the loss diverges.",
}
"""Of training in the quadratic model."""


def learning_rate(gathered: Gathered) -> Section | None:
    """Where the learning rate stands between zero and each limit."""
    told, curvature = gathered.last("suggest-lr"), gathered.last("sharpness")
    if told is None and curvature is None:
        return None
    estimates = {text_at(one, "name"): number_at(one, "learning_rate") for one in entries_at(told, "estimates")}
    marks = [Mark(rate, words) for name, words in RATE_MARKS.items() if (rate := estimates.get(name))]
    own, lowest = (number_at(told, "optimizer", f"{which}_learning_rate") for which in ("current", "lowest"))
    if not own:
        own, lowest = number_at(curvature, "learning_rate"), number_at(curvature, "lowest_learning_rate")
    name = text_at(told, "optimizer", "name")
    other = text_at(curvature, "optimizer")
    stable = number_at(curvature, "stable_learning_rate") if not name or not other or name == other else None
    best = number_at(told, "recommended", "learning_rate")
    marks += [Mark(stable, "tolerated by the curvature")] if stable else []
    marks += [Mark(best, "rate to train at", "advice")] if best else []
    marks += [Mark(own, "your rate" if lowest is None else "your highest rate", "you")] if own else []
    optimizer = OPTIMIZER_TITLES.get(name or other, name or other) or "The optimizer"
    sentences = [f"{optimizer} trains at {number_range(lowest, own)}."] if own else []
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
        ("cosine", "The cosine is that of the angle between the step and steepest descent: 1 is downhill, 0 across."),
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
    if rate is None and text_at(told, "recommended", "missing", "learning_rate", "code") == Why.NOT_ASKED:
        return ASK_FOR_RUNS
    if rate is None:
        try_ = f"Rate to train at: try one{between}." if between else "The rate to train at is not known."
        return f"{try_} The reason: {reason}." if reason else try_
    if at(told, "recommended", "reliable") is True:
        return f"Rate to train at: {number(rate)}{',' if between else ''}{between}."
    doubt = f"It is not reliable: {reason}." if reason else "It is not reliable."
    return f"Rate to train at: perhaps {number(rate)}{',' if between else ''}{between}. {doubt}"


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
        rate = "" if own is None else f" at {number_range(number_at(told, 'lowest_learning_rate'), own)}"
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
