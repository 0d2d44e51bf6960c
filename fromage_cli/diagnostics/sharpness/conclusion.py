"""The verdict on the learning rate in words, and what to do now."""

from collections.abc import Iterator
from typing import Literal

from fromage_cli.diagnostics.sharpness.findings import GIVE_STATE, MEASURE_LATER, WARM_UP
from fromage_cli.diagnostics.sharpness.result import QuadraticModel, SharpnessResult
from fromage_cli.missing import Missing, Why, known
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number, number_range

Situation = Literal[
    "not-measured",
    "no-optimizer",
    "no-rate",
    "one-step",
    "no-verdict",
    "bad-course",
    "edge",
    "adam-begins",
    "adam-unsaved",
    "flat",
    "stable",
    "grows",
]
REGIMES = {
    "lazy": "lazy: steps along the sharpest direction shrink",
    "catapult": "catapult: the loss may jump and come back",
    "architecture-dependent": "of the runs studied here some survived, some diverged",
    "edge-of-stability": "edge of stability",
}
"""What a ratio means where training was studied."""
_COURSES = {
    "spikes": "in simulated steps the loss jumps to {highest} and comes back",
    "rises": "in simulated steps the loss rises to {highest} and stays up",
    "diverges": "in simulated steps the loss diverges",
}
"""Of training in the quadratic model, where it is not good."""


def situation(result: SharpnessResult) -> Situation:
    """What decides about the rate; training in the quadratic model speaks before the ratio."""
    if not result.eigenvalues:
        return "not-measured"
    ratio = known(result.ratio)
    if bad_course(result) is not None:
        return "bad-course"
    if ratio is None:
        return _without_ratio(result)
    edge = known(result.regime) == "edge-of-stability"
    if edge or result.before_adam:
        return "edge" if edge else "adam-unsaved" if result.adam_unsaved else "adam-begins"
    if ratio <= 0.0:
        return "flat"
    return "stable" if ratio < 1.0 else "grows"


def _without_ratio(result: SharpnessResult) -> Situation:
    if result.optimizer is None:
        return "no-optimizer"
    if isinstance(result.learning_rate, Missing) and known(result.stable_learning_rate) is not None:
        return "no-rate"
    spoilt = isinstance(result.ratio, Missing) and result.ratio.code is Why.ZERO_OR_NOT_FINITE
    return "one-step" if known(result.critical_sharpness) is not None and not spoilt else "no-verdict"


def bad_course(result: SharpnessResult) -> str | None:
    """What goes wrong when the optimizer takes its steps, in the quadratic model or in the first one."""
    model, first = result.quadratic, known(result.first_step_sharpness)
    outcome = None if isinstance(model, Missing) else known(model.outcome)
    if not isinstance(model, Missing) and outcome in _COURSES:
        return _COURSES[outcome].format(highest=number(model.highest_loss))
    if first is not None and (known(result.first_step_ratio) or 0.0) >= 1.0:
        return f"Adam's first step raises the loss, as from a rate of {number(2.0 / first)} on"
    return None


def verdict(result: SharpnessResult) -> Iterator[str]:
    """Whether the rate is stable, and what is unusual about the answer; whole sentences."""
    found, ratio = situation(result), known(result.ratio)
    if found == "bad-course":
        yield f"Unstable at {number(result.learning_rate)}: {bad_course(result)}."
        if ratio is not None and ratio < 1.0 and not result.before_adam:
            yield f"The curvature of the sharpest direction alone does not show it (ratio {number(ratio)})."
    elif found == "stable":
        yield f"Stable: {_compared(result)}."
        if (known(result.critical_sharpness) or 0.0) * (known(result.learning_rate) or 0.0) >= 2.0:
            yield "One step at this rate raises the loss of these rows, which later steps may undo."
    elif found == "edge":
        yield f"At the edge of stability: {_compared(result)}."
        yield "There the loss falls over many steps, but not in each."
    elif found == "grows":
        yield f"Unstable in the sharpest direction: {_compared(result)}."
        yield _what_to_expect(result)
    elif found == "adam-begins":
        yield f"No verdict: where Adam begins, its ratio ({number(ratio)}) does not tell healthy from sick runs."
    elif found == "adam-unsaved":
        yield "No verdict: the file holds no state of Adam, so the ratio tells little."
    elif found == "flat":
        yield f"No curvature limits the rate: the loss curves upwards in no direction (ratio {number(ratio)})."
    else:
        yield from _without_verdict(result, found)


def _compared(result: SharpnessResult) -> str:
    """The network's curvature as a share of what the optimizer tolerates."""
    ratio = known(result.ratio) or 0.0
    share = f"{100.0 * ratio:.2g} % of" if ratio < 0.995 else f"{ratio:.2g} ×"
    return f"the network has {share} the sharpness that {optimizer_at_rate(result)} tolerates"


def _what_to_expect(result: SharpnessResult) -> str:
    """Of steps that grow along the sharpest direction."""
    model = result.quadratic
    if known(result.regime) == "catapult":
        return "Expect the loss to jump and come back (a catapult), as in 381 of 384 runs studied."
    if known(result.regime) == "architecture-dependent":
        return "Of the runs studied at such ratios some survived and some diverged."
    if not isinstance(model, Missing) and model.outcome == "falls":
        return "In simulated steps the loss still falls."
    return "Expect the loss to oscillate or to diverge."


def _without_verdict(result: SharpnessResult, found: Situation) -> Iterator[str]:
    """What is known where there is no ratio."""
    rate, critical = known(result.learning_rate), known(result.critical_sharpness)
    title, sharpness = optimizer_title(result), number(result.eigenvalues[0].value) if result.eigenvalues else ""
    if found == "not-measured":
        yield "No curvature was measured."
    elif found == "no-optimizer":
        yield f"No verdict yet: whether a sharpness of {sharpness} is stable depends on optimizer and rate."
    elif found == "no-rate":
        stable = number(result.stable_learning_rate)
        yield f"{title} is stable up to a rate of {stable}: there it tolerates this network's sharpness of {sharpness}."
    elif found == "one-step" and critical is not None:
        rises = 2.0 / critical
        if rate is None:
            yield f"One {title} step raises the loss from a rate of {number(rises)} on."
        elif rate >= rises:
            yield f"Unstable: one {title} step at {number(rate)} raises the loss, as from {number(rises)} on."
        else:
            times = f"{number(rises / rate)} × your {number(rate)}"
            yield f"Stable as far as one step tells: {title} raises the loss from {number(rises)} on, {times}."
        yield f"No curvature limits the rate of {title}, so its next step was tried instead."
    else:
        why = result.threshold if isinstance(result.threshold, Missing) else result.ratio
        yield f"No verdict: {why.words if isinstance(why, Missing) else 'nothing was measured'}."


def advise(result: SharpnessResult) -> str:
    """What to do now; empty where nothing follows. A warning's own remedy stands before it."""
    found, rate = situation(result), known(result.learning_rate)
    stable, critical = known(result.stable_learning_rate), known(result.critical_sharpness)
    told: dict[Situation, str] = {
        "no-optimizer": "for a verdict name optimizer and rate: --optimizer sgd --lr 0.1",
        "no-rate": GIVE_RATE,
        "bad-course": WARM_UP if result.before_adam and not result.adam_unsaved else f"lower {_rates_below(result)}.",
        "adam-begins": MEASURE_LATER,
        "adam-unsaved": GIVE_STATE,
        "flat": "nothing to change; suggest-lr tells how far one step may go.",
    }
    if stable is not None:
        limit = number(stable)
        told["stable"] = f"nothing to change; up to {limit} stays stable at today's curvature."
        told["edge"] = f"nothing to change while the loss falls over many steps; the ratio is 1 at {limit}."
        told["grows"] = f"lower {_rates_below(result, limit)}."
    if critical is not None:
        rises = 2.0 / critical
        small = f"nothing to change; a step at up to {number(rises)} does not raise the loss of these rows. "
        small += "suggest-lr also tries rows outside the batch."
        large = f"lower {_rates_below(result, number(rises))}."
        told["one-step"] = GIVE_RATE if rate is None else large if rate >= rises else small
    return told.get(found, "")


def _rates_below(result: SharpnessResult, limit: str = "") -> str:
    """What is to be lowered; where groups differ, all of their rates, so that they keep their ratios."""
    if result.lowest_learning_rate is None:
        return f"the rate{limit and f' below {limit}'}, or warm it up"
    return f"all rates alike{limit and f', the highest below {limit}'}, or warm them up"


GIVE_RATE = "for a verdict give your rate: --lr RATE"


def optimizer_title(result: SharpnessResult) -> str:
    """What the optimizer is called in a sentence."""
    return OPTIMIZER_TITLES.get(result.optimizer or "", "the optimizer")


def optimizer_at_rate(result: SharpnessResult) -> str:
    """The same with its rate, or the rates of its groups; empty where no optimizer is known."""
    rate, title = known(result.learning_rate), optimizer_title(result)
    if result.optimizer is None or rate is None:
        return "" if result.optimizer is None else title
    return f"{title} at {number_range(result.lowest_learning_rate, rate)}"


def course(model: QuadraticModel) -> str:
    """How the loss goes when training takes place in the quadratic model; empty where that was not simulated."""
    outcome, losses = known(model.outcome), model.losses
    if outcome is None:
        return ""
    if losses[0] == losses[-1] == 0.0:
        return "stays at 0"
    return {
        "falls": f"falls from {number(losses[0])} to {number(losses[-1])}",
        "spikes": f"jumps from {number(losses[0])} to {number(model.highest_loss)} and comes back",
        "rises": f"rises from {number(losses[0])} to {number(model.highest_loss)} and stays up",
        "diverges": "grows without bound",
    }[outcome]
