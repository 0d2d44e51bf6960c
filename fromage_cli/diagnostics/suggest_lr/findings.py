"""What the rates mean for the user: codes, limits and words."""

import math
from collections.abc import Iterator

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates, VerifiedRun
from fromage_cli.findings import (
    Finding,
    about_names,
    gradient_is_not_the_losses,
    gradient_is_rounding,
    gradient_is_zero,
    layers_without_size,
    weights_out_of_line,
)
from fromage_cli.missing import Missing, Why, known
from fromage_cli.terminal.words import number
from fromage_cli.theory.rate_calibration import RELIABLE
from fromage_cli.theory.siblings import WEIGHT_FACTOR

TWO_ANSWERS = "A training rate may lie above the one-step limits."
UPHILL_ERRORS = 2.0
"""Standard errors by which a cosine lies below zero where noise does not explain it: 2 of 100 do so by chance."""


def judge(result: SuggestedRates) -> tuple[Finding, ...]:
    """The findings of a result, the gravest kinds first."""
    wrong = [gradient_is_not_the_losses(*result.contradiction)] if result.contradiction is not None else []
    return (
        *wrong,
        *(weights_out_of_line(one.name, one.factor, WEIGHT_FACTOR) for one in result.out_of_line),
        *_verified(result),
        *_present_rate(result),
        *_certainty(result),
        *_training(result),
        *_gradients(result),
    )


def estimate(result: SuggestedRates, name: str) -> float | None:
    """The learning rate of one estimate; None where it has none."""
    return next((known(each.learning_rate) for each in result.estimates if each.name == name), None)


def sure_rates(result: SuggestedRates) -> tuple[float | None, float | None]:
    """Up to which rate the step helps in every layer, and as a whole."""
    layers, whole = estimate(result, "measured"), estimate(result, "measured-sum")
    return (None, layers) if result.limit.criterion == "sum" and whole is None else (layers, whole)


def verified_best(result: SuggestedRates) -> VerifiedRun | None:
    """The verified rate that ends lower than the others by more than chance; None where there is none."""
    return next((run for run in result.verification if run.best), None)


def what_to_try(result: SuggestedRates) -> str:
    """What makes the rate to train at known where it is not, or known badly."""
    recommended, rate = result.recommended, known(result.recommended.learning_rate)
    low, high = known(recommended.low), known(recommended.high)
    if low is not None and high is not None:
        middle, rises = rate or math.sqrt(low * high), estimate(result, "critical")
        warm = " after a warm-up" if rises is not None and middle > rises else ""
        compare = "" if result.verification else " (--verify 200 compares three rates)"
        return f"Try {low:.2g}, {middle:.2g} and {high:.2g}{warm}{compare}, or give five training batches."
    why = recommended.learning_rate
    if isinstance(why, Missing) and why.code is Why.NOT_ASKED:
        return "Drop --probe none for a rate to train at."
    if isinstance(why, Missing) and why.code is Why.LIMIT_REACHED:
        return "Run it again to the end, without Ctrl-C and with no limit or a larger one."
    return "Give five training batches (--batch file.py:function, an iterator) and --probe-budget 360."


def _present_rate(result: SuggestedRates) -> Iterator[Finding]:
    """A rate above what curvature allows, and one above the sure step, which is no fault."""
    rate, ratio = known(result.optimizer.current_learning_rate), known(result.optimizer.current_ratio)
    above, stable = known(result.stability.ratio), known(result.stability.learning_rate)
    if rate is not None and above is not None and above >= 1.0 and not result.stability.adam_begins:
        yield Finding(
            code="rate-not-stable",
            severity="warn",
            message=f"you train at {rate:.3g}, {number(above)} × the rate from which on steps along the sharpest "
            "direction of the loss grow",
            value=above,
            limit=1.0,
            hint=f"Lower the rate below {stable:.3g}, or warm up longer. In a study 11 of 15 runs with too large "
            "steps stood above it, and 1 of 23 healthy ones.",
        )
    if rate is not None and ratio is not None and ratio > 1.0:
        own, elsewhere = estimate(result, "critical"), estimate(result, "critical-independent")
        measured = result.limit.estimator in ("measured", "measured-sum")
        step, where = "the sure step" if measured else "the smallest rate at which one step raises the loss", ""
        if not measured:
            pass
        elif own is not None and rate > own:
            where = f", and one step at it raises the loss{_filled(result)}"
        elif elsewhere is not None and rate > elsewhere:
            where = ", and one step at it raises the loss of rows outside the batch"
        yield Finding(
            code="rate-above-limit",
            severity="info",
            message=f"your rate {rate:.3g} is {number(ratio)} × {step}{where}",
            value=ratio,
            limit=1.0,
            hint="This is no fault: healthy runs often stand above it.",
        )


def _verified(result: SuggestedRates) -> Iterator[Finding]:
    """Steps at the rate that raise the loss, and another rate that ends lower."""
    for run in result.verification:
        end, steps = known(run.end_loss), counted(len(run.losses), "step")
        if run.factor == 1.0 and (end is None or end > run.start_loss):
            ended = "overflowed" if end is None else f"rose from {run.start_loss:.4g} to {end:.4g}"
            yield Finding(
                code="verification-rises",
                severity="warn",
                message=f"after {steps} at {run.learning_rate:.3g} the loss on other rows {ended}",
                value=end,
                limit=run.start_loss,
                hint=f"Train at a lower rate: begin with {run.learning_rate / 3.0:.2g}.",
            )
        if run.best and run.factor != 1.0:
            yield Finding(
                code="verification-prefers-another",
                severity="info",
                message=f"--verify disagrees: after {steps} {run.learning_rate:.3g} ends lower than "
                f"{run.learning_rate / run.factor:.3g}",
                value=end,
                hint=f"Train at {run.learning_rate:.3g}, or look further with --verify {4 * len(run.losses)}: few "
                "steps favour high rates.",
            )


def _filled(result: SuggestedRates) -> str:
    """What the rates of an optimizer whose momentum is not in the checkpoint suppose."""
    return " once momentum has built up" if result.optimizer.filled else ""


def uphill(result: SuggestedRates) -> list[str]:
    """Layers whose step goes against descent by more than the error of its cosine."""
    errors = [(layer, known(layer.cosine_stderr)) for layer in result.layers]
    return [layer.name for layer, error in errors if error is not None and layer.cosine < -UPHILL_ERRORS * error]


def lost_in_noise(result: SuggestedRates) -> list[str]:
    """Layers whose gradient is no larger than its noise."""
    if known(result.noise_rows) is None:
        return []
    flat = [layer.name for layer in result.layers if layer.cosine <= 0.0 and known(layer.cosine_stderr) is not None]
    return [name for name in flat if name not in (*uphill(result), *result.zero_gradient)]


def sure_on_rows_alone(result: SuggestedRates) -> bool:
    """Whether what is sure in every layer holds for these rows, and noise may hide a layer's descent on others."""
    noisy = [name for name in lost_in_noise(result) if name not in result.uncertain]
    return bool(noisy) and not result.limit.averaged


def _certainty(result: SuggestedRates) -> Iterator[Finding]:
    """Where no step, or one on other rows, is certain to descend."""
    by_name = {each.name: each for each in result.estimates}
    if result.limit.estimator not in ("measured", "measured-sum"):
        because = f" ({by_name['measured'].assumption.few})" if "measured" in by_name else ""
        yield Finding(
            code="no-certain-step",
            severity="info",
            message=f"no step size is sure to lower the loss{because}",
            hint="Most layers step uphill, by more than noise explains. Check that the optimizer's state belongs to "
            "these weights and this loss."
            if 2 * len(uphill(result)) > len(result.layers)
            else f"Noise may hide the descent: measure on more rows, or name a batch above "
            f"{counted(result.optimizer.train_batch_size, 'row')} with --train-batch-size.",
        )
    elsewhere = by_name["critical-independent"].learning_rate if "critical-independent" in by_name else None
    if isinstance(elsewhere, Missing) and elsewhere.code == Why.UPHILL:
        yield Finding(
            code="descends-on-own-rows-only",
            severity="info",
            message="no such step lowers the loss of rows outside the batch: the numbers hold for this batch alone",
            hint="Measure on more rows. A network that has fitted its training data looks like this on held-out rows.",
        )


def _training(result: SuggestedRates) -> Iterator[Finding]:
    """The rate to train at: where a step from here at it raises the loss, and where it was not measured."""
    recommended, rate = result.recommended, known(result.recommended.learning_rate)
    highest = estimate(result, "critical")
    if rate is not None and highest is not None and rate > highest:
        yield Finding(
            code="recommended-above-critical",
            severity="info",
            message=f"from these weights one step at {rate:.3g} raises the loss{_filled(result)} "
            f"(from {highest:.3g} on)",
            value=rate,
            limit=highest,
            hint=f"Start below {highest:.3g} and warm up, or resume with the optimizer's state.",
        )
    why = recommended.learning_rate
    asked = not isinstance(why, Missing) or why.code is not Why.NOT_ASKED
    if result.optimizer.name is not None and asked and not recommended.reliable:
        yield Finding(
            code="rate-not-measured",
            severity="info",
            message=f"the rate to train at is {'not known' if rate is None else 'a guess'}: {recommended.reason}",
            value=known(recommended.regret),
            limit=RELIABLE,
            hint=what_to_try(result),
        )


def _gradients(result: SuggestedRates) -> Iterator[Finding]:
    """Layers whose step is noise, goes uphill by itself, or comes from a gradient that is rounding."""
    against = uphill(result)
    if against:
        yield about_names(
            "step-uphill",
            "info",
            against,
            f"the step of {counted(len(against), 'layer')} goes uphill, by more than noise explains",
            "Momentum from other data, or from another stretch of training, does this. More rows will not turn it.",
            limit=0.0,
        )
    low = lost_in_noise(result)
    if low:
        size = counted(result.optimizer.train_batch_size, "row")
        rows = f"beyond these {size}" if sure_on_rows_alone(result) else f"with {size}"
        yield about_names(
            "noise-dominates",
            "info",
            low,
            f"{rows}, the gradient of {counted(len(low), 'layer')} is no larger than its noise",
            "Measure on more rows. If you train on batches this small, these layers mostly take noise steps.",
            limit=0.0,
        )
    names = [name for name in result.uncertain if name not in result.zero_gradient]
    if names and result.limit.criterion is not None:
        others = "all other tensors" if sure_rates(result)[0] is None else "all vectors"
        yield about_names(
            "certain-together-only",
            "info",
            names,
            f"in {counted(len(names), 'layer')} the step helps only together with {others}",
            "This is usual with saved moments, and where noise is larger than the gradient.",
        )
    if result.zero_gradient:
        yield gradient_is_zero(result.zero_gradient)
    if result.without_size:
        yield layers_without_size(result.without_size)
    if result.noise:
        yield gradient_is_rounding(result.noise)
