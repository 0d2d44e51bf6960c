"""What the rates mean for the user: codes, default limits and words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why, known
from fromage_cli.terminal.words import counted


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a finding."""

    ratio: float = 1.0
    """Present rate over the limit, and over the rate that raises the loss."""
    noise: float = 0.0
    """Cosine of a training batch down to which noise dominates."""


def judge(result: SuggestedRates, limits: Limits | None = None) -> tuple[Finding, ...]:
    """The findings of a result, the gravest kinds first."""
    limits = limits or Limits()
    return (
        *_present_rate(result, limits),
        *_verified(result),
        *_no_limit(result),
        *_warm_up(result),
        *_only_on_this_batch(result),
        *_noise(result, limits),
        *_uncertain(result),
        *_not_measured(result),
        *_rounding(result),
    )


def estimate(result: SuggestedRates, name: str) -> float | None:
    """The learning rate of one estimate; None where it has none."""
    return next((known(each.learning_rate) for each in result.estimates if each.name == name), None)


def _present_rate(result: SuggestedRates, limits: Limits) -> Iterator[Finding]:
    rate, ratio = result.optimizer.current_learning_rate, result.optimizer.current_ratio
    if rate is None or ratio is None or ratio <= limits.ratio:
        return
    raises, where = _raised(result, rate)
    yield Finding(
        code="rate-above-limit",
        severity="warn" if raises else "info",
        layer=result.limit.limiting_layer,
        message=f"you run at {rate:.3g}, {ratio:.3g} × the limit{where}{_limiting(result)}",
        value=ratio,
        limit=limits.ratio,
        hint=_present_hint(result, raises),
    )


def _limiting(result: SuggestedRates) -> str:
    """What the tensor that a limit names has to do with it: it sets it by itself, or has the largest share in it."""
    limit = result.limit
    if limit.limiting_layer is None:
        return ""
    if limit.criterion is None:
        return "; this layer moves most"
    return "; this layer is the reason" if _alone(result) else "; this tensor weighs most in the sum behind it"


def _alone(result: SuggestedRates) -> bool:
    """Whether one layer by itself ends what is certain, and not the vectors together or the sum over all tensors."""
    name = result.limit.limiting_layer
    layers = {layer.name for layer in result.layers if len(layer.shape) > 1} - {*result.uncertain, *result.noise}
    return result.limit.criterion == "layers" and name in layers


def _present_hint(result: SuggestedRates, raises: bool) -> str:
    """What to do about a rate above the limit; `raises`: whether a step of it raises the loss of the batch."""
    if raises:
        group = ", or the rate of this layer's group," if _alone(result) else ""
        more = "training as a whole bears more than a single certain step."
        return f"Lower the rate{group} to make each step descend; {more}"
    if result.limit.criterion is None:
        return "No step is certain to descend, so that the limit is where the loss rises; measure on a larger batch."
    return "Usual: up to the limit descent is certain, and training bears more than that."


def _raised(result: SuggestedRates, rate: float) -> tuple[bool, str]:
    """Whether a step of that rate raises the loss of the batch, and words on where it does, there or on other rows."""
    own, elsewhere = estimate(result, "critical"), estimate(result, "critical-independent")
    if own is not None and rate > own:
        return True, f", and above {own:.3g}, from which on the step raises the loss{_filled(result)}"
    if elsewhere is not None and rate > elsewhere:
        return False, f", and above {elsewhere:.3g}, from which on the loss of other rows rises"
    return False, ""


def _filled(result: SuggestedRates) -> str:
    """What the rates of an optimizer whose momentum is not in the checkpoint suppose."""
    return " once momentum has built up" if result.optimizer.filled else ""


def _verified(result: SuggestedRates) -> Iterator[Finding]:
    for run in result.verification:
        risen = run.end_loss is None or run.end_loss > run.start_loss
        if run.factor == 1.0 and risen:
            ended = (
                "left the numbers" if run.end_loss is None else f"rose from {run.start_loss:.4g} to {run.end_loss:.4g}"
            )
            yield Finding(
                code="verification-rises",
                severity="warn",
                message=f"after {counted(len(run.losses), 'real step')} at {run.learning_rate:.3g} the loss on other "
                f"rows {ended}",
                value=run.end_loss,
                limit=run.start_loss,
                hint="Take the rate of a better run beside it: a rate that is too high shows within a few steps, "
                "overfitting later.",
            )


def _no_limit(result: SuggestedRates) -> Iterator[Finding]:
    if result.limit.estimator not in ("measured", "measured-sum"):
        measured = next((each for each in result.estimates if each.name == "measured"), None)
        yield Finding(
            code="no-certain-step",
            severity="warn",
            message=f"no step was found that is certain to descend: {measured.assumption}"
            if measured is not None
            else "no step was found that is certain to descend",
            value=None,
            hint="Measure on a larger batch, or give a larger --train-batch-size: noise may hide the descent.",
        )


def _warm_up(result: SuggestedRates) -> Iterator[Finding]:
    rate, highest = known(result.recommended.learning_rate), estimate(result, "critical")
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


def _only_on_this_batch(result: SuggestedRates) -> Iterator[Finding]:
    elsewhere = next((each for each in result.estimates if each.name == "critical-independent"), None)
    rate = elsewhere.learning_rate if elsewhere is not None else None
    if isinstance(rate, Missing) and rate.code == Why.UPHILL:
        yield Finding(
            code="descends-on-own-rows-only",
            severity="info",
            message="on rows that gave no part of it, the step does not lower the loss at any rate: what is certain "
            "holds for the rows of this batch alone",
            hint="Use a larger batch. A network that fits its training data also looks like this on rows held out.",
        )


def _noise(result: SuggestedRates, limits: Limits) -> Iterator[Finding]:
    drowned = [layer.name for layer in result.layers if layer.cosine is not None and layer.cosine_stderr is not None]
    low = [
        layer.name
        for layer in result.layers
        if layer.name in drowned and layer.cosine is not None and layer.cosine <= limits.noise
    ]
    if low and result.noise_rows is not None:
        size = result.optimizer.train_batch_size
        yield Finding(
            code="noise-dominates",
            severity="info",
            layer=low[0] if len(low) == 1 else None,
            message=f"at {counted(size, 'row')} a batch, the step of {counted(len(low), 'layer')} is not told from "
            f"noise, or does not descend: {_first_names(low)}",
            value=float(len(low)),
            limit=limits.noise,
            hint="Lemma 2 then says nothing; a larger batch here tells more, a larger training batch steps better.",
        )


def _uncertain(result: SuggestedRates) -> Iterator[Finding]:
    names = result.uncertain
    if names and result.limit.criterion is not None:
        others = "with all vectors" if result.limit.criterion == "layers" else "with all other tensors"
        yield Finding(
            code="certain-together-only",
            severity="info",
            layer=names[0] if len(names) == 1 else None,
            message=f"the step does not descend in {counted(len(names), 'layer')} alone, which the limit therefore "
            f"takes together {others}: {_first_names(names)}",
            value=float(len(names)),
            hint="Usual along the moments of a trained network, and where noise dominates.",
        )


def _not_measured(result: SuggestedRates) -> Iterator[Finding]:
    recommended, rate = result.recommended, known(result.recommended.learning_rate)
    if result.optimizer.name is not None and not recommended.reliable:
        typical = "the typical rate stands in" if rate is not None else "there is no typical rate"
        yield Finding(
            code="rate-not-measured",
            severity="info",
            message=f"the rate to train at was not measured, {typical}: {recommended.reason}",
            value=known(recommended.gain),
            hint="On four of five small networks it is right within a factor of 3; try 1/3 of it and 3 × it as well."
            if rate is not None
            else "Begin at the limit, or name another --optimizer.",
        )


def _rounding(result: SuggestedRates) -> Iterator[Finding]:
    if result.noise:
        yield Finding(
            code="gradient-is-rounding",
            severity="info",
            layer=result.noise[0] if len(result.noise) == 1 else None,
            message=f"the gradient of {counted(len(result.noise), 'tensor')} is zero but for rounding and has no say "
            f"of its own: {_first_names(result.noise)}",
            value=float(len(result.noise)),
            hint="Usual for biases before a normalisation and for the keys' bias in attention; otherwise try "
            "--dtype float64.",
        )


def _first_names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
