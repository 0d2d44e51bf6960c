"""What curvature and threshold mean for the user: codes, default limits and words."""

import math
from collections.abc import Iterator

from fromage_cli.counting import counted
from fromage_cli.diagnostics.sharpness.result import SharpnessResult
from fromage_cli.findings import Finding, Severity
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import SGD

WARM_UP = "Warm-up makes Adam's first steps small."
"""Before Adam's first step, where no lower rate was found to be better."""
Words = tuple[str, Severity, str, str]
"""Code, severity, message, hint."""


def judge(result: SharpnessResult) -> tuple[Finding, ...]:
    """The findings of a sharpness result, the gravest kinds first."""
    return (*_stability(result), *_what_it_rests_on(result))


def _stability(result: SharpnessResult) -> Iterator[Finding]:
    """What the ratio to the threshold says of the rate, and what training in the quadratic model does."""
    ratio = known(result.ratio)
    # before Adam's first step 2 of 23 healthy runs of docs/run-study.md were at 9 and 17
    judged = ratio is not None and not result.before_adam
    if ratio is not None and judged and (ratio >= 1.0 or result.regime == "edge-of-stability"):
        code, severity, message, hint = _REGIMES.get(known(result.regime) or "", _BEYOND)
        yield Finding(
            code=code,
            severity=severity,
            message=message.format(ratio=f"{ratio:.2g}"),
            value=ratio,
            limit=1.0,
            hint=hint,
        )
    model = result.quadratic
    words = None if isinstance(model, Missing) else _OUTCOMES.get(known(model.outcome) or "")
    if not isinstance(model, Missing) and words is not None:
        code, severity, message, hint = words
        highest = max((loss for loss in model.losses if math.isfinite(loss)), default=math.inf)
        yield Finding(
            code=code,
            severity=severity,
            message=message.format(
                steps=counted(len(model.losses) - 1, "step"), highest=f"{highest:.3g}", start=f"{model.losses[0]:.3g}"
            ),
            value=highest,
            limit=model.losses[0],
            hint=WARM_UP if result.before_adam else hint,
        )


_BEYOND: Words = (
    "above-threshold",
    "warn",
    "this batch has {ratio} × the curvature that the optimizer tolerates: steps along its sharpest direction grow",
    "Lower the rate by that factor, or measure on a larger batch: a small one is sharper than the whole data.",
)
_REGIMES: dict[str, Words] = {
    "catapult": (
        "catapult",
        "info",
        "this batch has {ratio} × the curvature that the optimizer tolerates: the loss may jump and come back with "
        "less curvature, as in 381 of 384 runs of plain descent with squared error",
        "Expected for a large rate at initialisation; warm-up, or a rate lower by that factor, avoids the jump.",
    ),
    "architecture-dependent": (
        "rate-depends-on-architecture",
        "warn",
        "this batch has {ratio} × the curvature that the optimizer tolerates: some of the runs studied there survived, "
        "others diverged",
        "Lower the rate by that factor, or warm it up; a small batch is sharper than the whole data.",
    ),
    "edge-of-stability": (
        "edge-of-stability",
        "info",
        "curvature of this batch and threshold have met (ratio {ratio}): training on it at this rate is at the edge of "
        "stability, where the loss falls over many steps but not in each",
        "A small batch is sharper than the whole data. A higher rate pushes the curvature down, a lower lets it rise.",
    ),
}
"""By regime."""


_OUTCOMES: dict[str, Words] = {
    "spikes": (
        "quadratic-model-spikes",
        "warn",
        "trained at this rate, the network's quadratic model spikes from {start} to {highest} and comes back within "
        "{steps}",
        "A lower rate, or warm-up, avoids the spike. The network itself may come back, or diverge.",
    ),
    "rises": (
        "quadratic-model-rises",
        "warn",
        "trained at this rate, the network's quadratic model rises from {start} to {highest} and is not back after "
        "{steps}",
        "Lower the rate, or warm it up. --simulate takes more steps.",
    ),
    "diverges": (
        "quadratic-model-diverges",
        "warn",
        "trained at this rate, the network's quadratic model diverges within {steps}",
        "Lower the rate, or warm it up. The network itself may bend away from its quadratic model and survive.",
    ),
}
"""By outcome."""


def _what_it_rests_on(result: SharpnessResult) -> Iterator[Finding]:
    """What single batches feel, a first step that raises the loss, and curvature that is not positive."""
    plain = result.optimizer == SGD.name and not result.momentum
    batches, rate = known(result.batch_sharpness), known(result.learning_rate)
    if batches is not None and rate is not None and plain:
        overshoot = batches.mean * rate / 2.0
        if overshoot - batches.stderr * rate > 1.0:
            yield Finding(
                code="batch-sharpness-high",
                severity="info",
                message=f"along the gradients of batches of {counted(batches.batch_size, 'row')} the curvature is "
                f"{overshoot:.2g} × 2 / η: a step overshoots on its own batch",
                value=overshoot,
                limit=1.0,
                hint="Larger batches or a lower rate; at ratio 1 SGD sits at its own edge of stability.",
            )
    first = known(result.first_step_ratio)
    if first is not None and first >= 1.0:
        yield Finding(
            code="first-step-rises",
            severity="info",
            message=f"the very first step of Adam raises the loss: the rate is {first:.2g} × the smallest that does",
            value=first,
            limit=1.0,
            hint="Adam's first step moves every weight by the rate; warm-up makes it small.",
        )
    if result.eigenvalues and result.eigenvalues[0].value <= 0.0:
        yield Finding(
            code="no-positive-curvature",
            severity="info",
            message=f"the largest eigenvalue is {result.eigenvalues[0].value:.2g}: the loss curves upwards nowhere",
            value=result.eigenvalues[0].value,
            limit=0.0,
            hint="No curvature bounds the rate then; that says nothing about larger steps.",
        )
