"""What the rates mean for the user: codes, limits and words."""

import math
from collections.abc import Iterator

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
from fromage_cli.findings import (
    Finding,
    about_names,
    gradient_is_not_the_losses,
    gradient_is_rounding,
    gradient_is_zero,
    layers_without_size,
)
from fromage_cli.missing import Missing, Why, known
from fromage_cli.theory.rate_calibration import RELIABLE

UPHILL_ERRORS = 2.0
"""Standard errors by which a cosine lies below zero where noise does not explain it: 2 of 100 do so by chance."""


def judge(result: SuggestedRates) -> tuple[Finding, ...]:
    """The findings of a result, the gravest kinds first."""
    wrong = [gradient_is_not_the_losses(*result.contradiction)] if result.contradiction is not None else []
    return (*wrong, *_present_rate(result), *_certainty(result), *_gradients(result), *_training(result))


def estimate(result: SuggestedRates, name: str) -> float | None:
    """The learning rate of one estimate; None where it has none."""
    return next((known(each.learning_rate) for each in result.estimates if each.name == name), None)


def _present_rate(result: SuggestedRates) -> Iterator[Finding]:
    """A rate above the limit, which is no fault, and real steps that raise the loss."""
    rate, ratio = known(result.optimizer.current_learning_rate), known(result.optimizer.current_ratio)
    above = known(result.stability.ratio)
    if rate is not None and above is not None and above >= 1.0 and not result.stability.adam_begins:
        yield Finding(
            code="rate-not-stable",
            severity="warn",
            message=f"you run at {rate:.3g}, {above:.3g} × the rate from which on steps along the sharpest direction "
            "of the loss grow",
            value=above,
            limit=1.0,
            hint="Lower the rate below it, or warm up longer. In a study of small runs one of 23 healthy ones was "
            "above it, and 11 of 15 whose steps were too large.",
        )
    if rate is not None and ratio is not None and ratio > 1.0:
        own, elsewhere = estimate(result, "critical"), estimate(result, "critical-independent")
        where = ""
        if own is not None and rate > own:
            where = f", and above {own:.3g}, from which on the step raises the loss{_filled(result)}"
        elif elsewhere is not None and rate > elsewhere:
            where = f", and above {elsewhere:.3g}, from which on the loss of other rows rises"
        yield Finding(
            code="rate-above-limit",
            severity="info",
            layer=result.limit.limiting_layer,
            message=f"you run at {rate:.3g}, {ratio:.3g} × the limit of a single step{where}",
            value=ratio,
            limit=1.0,
            hint="No fault: healthy runs often stand above it. What training may do, sharpness tells.",
        )
    yield from _verified(result)


def _verified(result: SuggestedRates) -> Iterator[Finding]:
    """Steps at the rate that raise the loss, and another rate that ends lower."""
    for run in result.verification:
        end, steps = known(run.end_loss), counted(len(run.losses), "step")
        if run.factor == 1.0 and (end is None or end > run.start_loss):
            ended = "became infinite or no number" if end is None else f"rose from {run.start_loss:.4g} to {end:.4g}"
            yield Finding(
                code="verification-rises",
                severity="warn",
                message=f"after {steps} at {run.learning_rate:.3g} the loss on other rows {ended}",
                value=end,
                limit=run.start_loss,
                hint="Take the rate of a better run beside it: a rate that is too high shows within a few steps, "
                "overfitting later.",
            )
        if run.best and run.factor != 1.0:
            yield Finding(
                code="verification-prefers-another",
                severity="info",
                message=f"after {steps} the loss on other rows is lowest at {run.learning_rate:.3g}, {run.factor:.2g} "
                "× the rate that was verified",
                value=end,
                hint="Verify over as many steps as you can: over few steps rates above the best one look better.",
            )


def _filled(result: SuggestedRates) -> str:
    """What the rates of an optimizer whose momentum is not in the checkpoint suppose."""
    return " once momentum has built up" if result.optimizer.filled else ""


def _uphill(result: SuggestedRates) -> list[str]:
    """Layers whose step goes against descent by more than the error of its cosine."""
    errors = [(layer, known(layer.cosine_stderr)) for layer in result.layers]
    return [layer.name for layer, error in errors if error is not None and layer.cosine < -UPHILL_ERRORS * error]


def _certainty(result: SuggestedRates) -> Iterator[Finding]:
    """Where no step, or one on other rows, is certain to descend."""
    by_name = {each.name: each for each in result.estimates}
    if result.limit.estimator not in ("measured", "measured-sum"):
        because = f": {by_name['measured'].assumption}" if "measured" in by_name else ""
        yield Finding(
            code="no-certain-step",
            severity="info",
            message=f"no step was found at which the loss must fall{because}",
            hint="Most layers step uphill by more than noise could make of it: check that the optimizer's state "
            "belongs to these weights and this loss."
            if 2 * len(_uphill(result)) > len(result.layers)
            else "Measure on a larger batch, or give a larger --train-batch-size: noise may hide the descent.",
        )
    elsewhere = by_name["critical-independent"].learning_rate if "critical-independent" in by_name else None
    if isinstance(elsewhere, Missing) and elsewhere.code == Why.UPHILL:
        yield Finding(
            code="descends-on-own-rows-only",
            severity="info",
            message="on rows that gave no part of it, the step does not lower the loss at any rate: what is certain "
            "holds for the rows of this batch alone",
            hint="Use a larger batch. A network that fits its training data also looks like this on rows held out.",
        )


def _training(result: SuggestedRates) -> Iterator[Finding]:
    """The rate to train at: where a step from here at it raises the loss, and where it was not measured."""
    recommended, rate = result.recommended, known(result.recommended.learning_rate)
    highest = estimate(result, "critical")
    if rate is not None and highest is not None and rate > highest:
        yield Finding(
            code="recommended-above-critical",
            severity="info",
            message=f"a step from here at the recommended rate {rate:.3g} would raise the loss"
            f"{_filled(result)}, which it does from {highest:.3g} on",
            value=rate,
            limit=highest,
            hint="Warm up from below, or resume with the optimizer's state; the two rates answer different questions.",
        )
    why = recommended.learning_rate
    asked = not isinstance(why, Missing) or why.code is not Why.NOT_ASKED
    if result.optimizer.name is not None and asked and not recommended.reliable:
        low, high = known(recommended.low), known(recommended.high)
        if low is not None and high is not None:
            middle = rate or math.sqrt(low * high)
            hint = f"Try {low:.2g}, {middle:.2g} and {high:.2g}; --verify compares three rates."
        elif isinstance(why, Missing) and why.code is Why.LIMIT_REACHED:
            hint = "Run it again to the end: without Ctrl-C, and with no limit or a larger one."
        else:
            hint = "Give five training batches (--batch with an iterator) and --probe-budget 360."
        yield Finding(
            code="rate-not-measured",
            severity="info",
            message=f"the rate to train at is not known well here: {recommended.reason}",
            value=known(recommended.regret),
            limit=RELIABLE,
            hint=hint,
        )


def _gradients(result: SuggestedRates) -> Iterator[Finding]:
    """Layers whose step is noise, goes uphill by itself, or comes from a gradient that is rounding."""
    uphill = _uphill(result)
    if uphill:
        yield about_names(
            "step-uphill",
            "info",
            uphill,
            f"the step of {counted(len(uphill), 'layer')} goes uphill, by more than noise could make of it",
            "More rows will not turn it. Momentum from another stretch of training, or of other data, does this.",
            limit=0.0,
        )
    flat = [layer for layer in result.layers if layer.cosine <= 0.0 and known(layer.cosine_stderr) is not None]
    low = [layer.name for layer in flat if layer.name not in (*uphill, *result.zero_gradient)]
    if low and known(result.noise_rows) is not None:
        size = result.optimizer.train_batch_size
        yield about_names(
            "noise-dominates",
            "info",
            low,
            f"at {counted(size, 'row')} a batch, the step of {counted(len(low), 'layer')} is not told from noise",
            "Lemma 2 then says nothing; a larger batch here tells more, a larger training batch steps better.",
            limit=0.0,
        )
    names = [name for name in result.uncertain if name not in result.zero_gradient]
    if names and result.limit.criterion is not None:
        others = "with all vectors" if result.limit.criterion == "layers" else "with all other tensors"
        yield about_names(
            "certain-together-only",
            "info",
            names,
            f"the step does not descend in {counted(len(names), 'layer')} alone, which the limit therefore takes "
            f"together {others}",
            "Usual along the moments of a trained network, and where noise dominates.",
        )
    if result.zero_gradient:
        yield gradient_is_zero(result.zero_gradient)
    if result.without_size:
        yield layers_without_size(result.without_size)
    if result.noise:
        yield gradient_is_rounding(result.noise)
