"""What curvature and threshold mean for the user: codes, default limits and words."""

import math
from collections.abc import Iterator

from fromage_cli.counting import counted
from fromage_cli.diagnostics.sharpness.result import SharpnessResult
from fromage_cli.findings import Finding, Severity
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import SGD

Words = tuple[str, Severity, str, str]
"""Code, severity, message, hint."""


def judge(result: SharpnessResult) -> tuple[Finding, ...]:
    """The findings of a sharpness result, the gravest kinds first."""
    return (*_stability(result), *_what_it_rests_on(result))


def _stability(result: SharpnessResult) -> Iterator[Finding]:
    """What the ratio to the threshold says of the rate, and what training in the quadratic model does."""
    ratio = known(result.ratio)
    if ratio is not None and (ratio >= 1.0 or result.regime == "edge-of-stability"):
        code, severity, message, hint = _REGIMES.get(known(result.regime) or "", _BEYOND)
        yield Finding(
            code=code,
            severity=severity,
            message=message.format(ratio=f"{ratio:.2g}", scaled=f"{2.0 * ratio:.2g}"),
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
            hint=hint,
        )


_BEYOND: Words = (
    "above-threshold",
    "warn",
    "the curvature on this batch is {ratio} × what the optimizer bears at this rate: steps along it grow",
    "Lower the rate by that factor, or measure on a larger batch: a small one is sharper than the whole data.",
)
_REGIMES: dict[str, Words] = {
    "catapult": (
        "catapult",
        "info",
        "the rate is {scaled} / λ of this batch: along that curvature the loss rises at first, and comes back with "
        "less of it in two-layer networks with squared error",
        "Expected for a large rate at initialisation; warm-up, or a rate below 2 / λ, avoids the rise.",
    ),
    "architecture-dependent": (
        "rate-depends-on-architecture",
        "warn",
        "the rate is {scaled} / λ of this batch: beyond what two-layer linear networks survive (4 / λ); ReLU networks "
        "of three layers survived up to 10 to 12 / λ",
        "Lower the rate below 4 / λ, or warm it up; a small batch is sharper than the whole data.",
    ),
    "divergent": (
        "rate-diverges",
        "fail",
        "the rate is {scaled} / λ of this batch: beyond what any network measured survived (12 / λ)",
        "Lower the rate, or warm it up; a small batch is sharper than the whole data.",
    ),
    "edge-of-stability": (
        "edge-of-stability",
        "info",
        "curvature of this batch and threshold have met (ratio {ratio}): training on it at this rate is at the edge of "
        "stability, where the loss falls over many steps but not in each",
        "Usual for a trained network; a small batch is sharper than the whole data. A higher rate pushes the curvature "
        "down, a lower one lets it rise.",
    ),
}
"""By regime."""


_OUTCOMES: dict[str, Words] = {
    "spikes": (
        "quadratic-model-spikes",
        "info",
        "trained at this rate, the network's quadratic model spikes from {start} to {highest} and comes back within "
        "{steps}",
        "A catapult: curvature falls while the loss is high. A lower rate, or warm-up, avoids the spike.",
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
    """What single batches feel, for which optimizer the regimes were measured, and curvature that is not positive."""
    plain = result.optimizer == SGD.name and not result.momentum
    batches, rate, ratio = known(result.batch_sharpness), known(result.learning_rate), known(result.ratio)
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
    if not plain and not result.trained and ratio is not None and ratio >= 1.0:
        yield Finding(
            code="bands-of-plain-descent",
            severity="info",
            message=f"the regimes above the threshold were measured for plain gradient descent, and carried over in "
            f"units of the threshold (2 × ratio = {2.0 * ratio:.2g})",
            value=2.0 * ratio,
            hint="Below the threshold the statement is exact for each optimizer.",
        )
    if result.eigenvalues and result.eigenvalues[0].value <= 0.0:
        yield Finding(
            code="no-positive-curvature",
            severity="info",
            message=f"the largest eigenvalue is {result.eigenvalues[0].value:.2g}: the loss curves upwards nowhere",
            value=result.eigenvalues[0].value,
            limit=0.0,
            hint="Every rate is stable by this measure; it says nothing about larger steps.",
        )
