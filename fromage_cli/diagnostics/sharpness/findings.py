"""What curvature and threshold mean for the user: codes, default limits and words."""

from collections.abc import Iterator

from fromage_cli.counting import counted
from fromage_cli.diagnostics.sharpness.result import SharpnessResult
from fromage_cli.findings import Finding, Severity, weights_out_of_line
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import SGD
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number
from fromage_cli.theory.siblings import WEIGHT_FACTOR

WARM_UP = "Warm up the rate: that makes Adam's first steps small."
"""Before Adam's first step, where no lower rate was found to be better."""
MEASURE_LATER = "measure a later checkpoint: with Adam's saved state the ratio tells more."
"""Where the ratio of Adam's beginning tells nothing."""
GIVE_STATE = "give --optimizer-state, or a checkpoint that holds it."
"""Where nothing but the state of Adam is missing."""
Words = tuple[str, Severity, str, str]
"""Code, severity, message, hint."""


def judge(result: SharpnessResult) -> tuple[Finding, ...]:
    """The findings of a sharpness result: layers that may be the cause first, then the gravest kinds."""
    odd = (weights_out_of_line(one.name, one.factor, WEIGHT_FACTOR) for one in result.out_of_line)
    return (*odd, *_stability(result), *_what_it_rests_on(result))


def _stability(result: SharpnessResult) -> Iterator[Finding]:
    """What the ratio to the threshold says of the rate, and what training in the quadratic model does."""
    ratio, rate, stable = known(result.ratio), known(result.learning_rate), known(result.stable_learning_rate)
    below = "" if stable is None else f" below {number(stable)}"
    # before Adam's first step 2 of 23 healthy runs of docs/run-study.md were at 9 and 17
    judged = ratio is not None and not result.before_adam
    if ratio is not None and judged and (ratio >= 1.0 or result.regime == "edge-of-stability"):
        code, severity, message, hint = _REGIMES.get(known(result.regime) or "", _BEYOND)
        title = OPTIMIZER_TITLES.get(result.optimizer or "", "the optimizer")
        times = f"{ratio:.2g} × the curvature that {title} tolerates at {number(rate)}"
        yield Finding(
            code=code,
            severity=severity,
            message=message.format(ratio=f"{ratio:.2g}", times=times),
            value=ratio,
            limit=1.0,
            hint=hint.format(below=below),
        )
    model = result.quadratic
    words = None if isinstance(model, Missing) else _OUTCOMES.get(known(model.outcome) or "")
    if not isinstance(model, Missing) and words is not None:
        code, severity, message, hint = words
        lower = below if judged and ratio is not None and ratio >= 1.0 else ""
        yield Finding(
            code=code,
            severity=severity,
            message=message.format(
                steps=counted(len(model.losses) - 1, "step"),
                highest=f"{model.highest_loss:.3g}",
                start=f"{model.losses[0]:.3g}",
            ),
            value=model.highest_loss,
            limit=model.losses[0],
            hint=WARM_UP if result.before_adam and not result.adam_unsaved else hint.format(below=lower),
        )


_BEYOND: Words = (
    "above-threshold",
    "warn",
    "steps along the sharpest direction grow: it has {times}",
    "Lower the rate{below}, or measure on more rows: a small batch is sharper than the whole data.",
)
_REGIMES: dict[str, Words] = {
    "catapult": (
        "catapult",
        "info",
        "the loss may jump and come back: the sharpest direction has {times}",
        "Usual for a large rate at initialisation. To avoid the jump lower the rate{below}, or warm it up.",
    ),
    "architecture-dependent": (
        "rate-depends-on-architecture",
        "warn",
        "some networks survive such a rate, others diverge: the sharpest direction has {times}",
        "Lower the rate{below}, or warm it up. A small batch is sharper than the whole data.",
    ),
    "edge-of-stability": (
        "edge-of-stability",
        "info",
        "training on this batch is at the edge of stability (ratio {ratio}): the loss falls over many steps, but not "
        "in each",
        "A higher rate pushes the curvature down, a lower one lets it rise. More rows tell whether the whole data is "
        "as sharp.",
    ),
}
"""By regime."""


_OUTCOMES: dict[str, Words] = {
    "spikes": (
        "quadratic-model-spikes",
        "warn",
        "trained at this rate, the network's quadratic model jumps from {start} to {highest} and is back after {steps}",
        "Lower the rate{below}, or warm it up. The network itself may come back, or diverge.",
    ),
    "rises": (
        "quadratic-model-rises",
        "warn",
        "trained at this rate, the network's quadratic model rises from {start} to {highest}, not back after {steps}",
        "Lower the rate{below}, or warm it up. To look further raise --simulate.",
    ),
    "diverges": (
        "quadratic-model-diverges",
        "warn",
        "trained at this rate, the network's quadratic model diverges within {steps}",
        "Lower the rate{below}, or warm it up. The network itself may leave its quadratic model and survive.",
    ),
}
"""By outcome."""
TOLD = (
    _BEYOND[0],
    *(words[0] for words in (*_REGIMES.values(), *_OUTCOMES.values())),
    "first-step-rises",
    "no-positive-curvature",
)
"""Findings that the verdict and the numbers of the page say themselves."""


def _what_it_rests_on(result: SharpnessResult) -> Iterator[Finding]:
    """Batches that are sharper than SGD tolerates, a first step that raises the loss, and no positive curvature."""
    plain = result.optimizer == SGD.name and not result.momentum
    batches, rate = known(result.batch_sharpness), known(result.learning_rate)
    if batches is not None and rate is not None and plain:
        overshoot = batches.mean * rate / 2.0
        if overshoot - batches.stderr * rate > 1.0:
            yield Finding(
                code="batch-sharpness-high",
                severity="info",
                message=f"a step overshoots on its own batch of {counted(batches.batch_size, 'row')}: along its "
                f"gradient the curvature is {overshoot:.2g} × what SGD tolerates",
                value=overshoot,
                limit=1.0,
                hint="Take larger batches or a lower rate. At 1 × SGD is at its own edge of stability.",
            )
    first = known(result.first_step_ratio)
    if first is not None and first >= 1.0:
        yield Finding(
            code="first-step-rises",
            severity="info",
            message=f"Adam's first step raises the loss: the rate is {first:.2g} × the smallest that does",
            value=first,
            limit=1.0,
            hint="Warm up the rate: Adam's first step moves every weight by the full rate.",
        )
    if result.eigenvalues and result.eigenvalues[0].value <= 0.0:
        yield Finding(
            code="no-positive-curvature",
            severity="info",
            message=f"the loss curves upwards nowhere: its largest curvature is {result.eigenvalues[0].value:.2g}",
            value=result.eigenvalues[0].value,
            limit=0.0,
            hint="No curvature limits the rate then. That says nothing about larger steps.",
        )
