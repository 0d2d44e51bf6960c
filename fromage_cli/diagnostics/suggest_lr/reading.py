"""What is read off a finished measurement: the limit, each layer's and each group's share in it, the noise."""

from collections.abc import Sequence

from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch
from fromage_cli.diagnostics.suggest_lr.result import (
    NO_LAYER_MOVES,
    NO_SHARPNESS,
    GroupRate,
    LayerRate,
    Limit,
    MeasuredPoint,
    OptimizerSettings,
    Stability,
)
from fromage_cli.errors import ResourceError
from fromage_cli.missing import (
    LEARNING_RATE_UNKNOWN,
    LIMIT_REACHED,
    OPTIMIZER_UNKNOWN,
    WEIGHT_DECAY_UNKNOWN,
    Missing,
    Why,
)
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.threshold import optimizer_kind
from fromage_cli.probes.lines.crossing import Crossing
from fromage_cli.probes.lines.direction import Still
from fromage_cli.probes.optimizer_step.next_step import hardly_begun
from fromage_cli.probes.optimizer_step.next_update import NextUpdate
from fromage_cli.theory.conversions import largest_rate
from fromage_cli.theory.curves import Point
from fromage_cli.theory.gradient_noise import noise_scale_range
from fromage_cli.theory.stability import INITIAL_BANDS

BEYOND = Missing(Why.ABOVE_GRID, "the loss falls at every step that was tried")
TRUST = {
    "above-grid": Missing(Why.ABOVE_GRID, "the search ended before it"),
    "below-grid": Missing(Why.BELOW_GRID, "it lies below every step that was tried"),
    "uncertifiable": Missing(Why.UNCERTIFIABLE, "no size of the step is sure to help in this layer"),
}
"""Why there is no place where a layer's gradient has changed too far, by relation."""
NO_SLOPE = Missing(Why.NO_SECOND_DERIVATIVE, "the loss has no second derivative that can be used")
NO_CURVATURE = Missing(Why.ZERO_OR_NOT_FINITE, "the gradient does not change to first order")
ROUNDING = Missing(Why.HIDDEN_BY_ROUNDING, "the gradient is zero but for rounding")
NO_SIZE = Missing(Why.ZERO_OR_NOT_FINITE, "the weights are zero or far smaller than their step, or it is zero")
VECTOR = Missing(Why.NOT_DEFINED, "relative steps are those of layers")
FEW_PARTS = Missing(Why.TOO_FEW_ROWS, "a standard error takes three parts of the rows")
OWN_ROWS = Missing(Why.NO_FORMULA, "what stands in for the optimizer's memory comes from the same rows")
NO_COSINE = Missing(Why.ZERO_OR_NOT_FINITE, "the mean gradient or the step is zero")
NOISE_DOMINATES = Missing(Why.HIDDEN_BY_NOISE, "the noise of the rows is larger than their mean gradient")
NOT_BOUNDED = Missing(Why.HIDDEN_BY_NOISE, "within a standard error the mean gradient may be zero")
NO_NOISE = Missing(Why.NOT_DEFINED, "the gradients of all parts of the rows are the same")
MEMBERS_UNTOLD = Missing(Why.NO_STATE, "the state does not tell which tensors the group holds")


def read_limit(
    measuring: RateSearch, crossings: Sequence[Crossing | None], critical: float | None, elsewhere: float | None
) -> Limit:
    """The measured limit; where descent is nowhere certain, the smallest rate that was seen to raise the loss.

    `crossings`: by layers, and of the sum over all tensors. The sum comes first. A layer whose gradient is nearly zero
    loses it in the smallest step and hardly changes the sum. One behind a scale of 1e-6 is such a layer.
    """
    crossing = crossings[0]
    for name, found in zip(("measured-sum", "measured"), reversed(crossings), strict=True):
        if (
            found is not None
            and found.eta is not None
            and not found.slope_check(measuring.problem.base.loss).contradicted
        ):
            eta, rate = measuring.place(found.eta)
            return Limit(
                eta=eta,
                learning_rate=rate,
                estimator=name,
                relation=found.relation,
                limiting_layer=found.limiting,
                criterion=found.criterion,
                upper_eta=BEYOND if found.upper is None else found.upper,
                reliable=found.closed and (measuring.matched.state is None or measuring.matched.state.rates_known),
                averaged=measuring.update.sampled,
            )
    relation = crossing.relation if crossing is not None else "uncertifiable"
    known = [rate for rate in (critical, elsewhere) if rate is not None]
    if not known:
        limited = isinstance(measuring.error, ResourceError)
        code = Why.LIMIT_REACHED if limited else Why.BELOW_GRID if relation == "below-grid" else Why.UNCERTIFIABLE
        none = Missing(code, "no step size is sure to lower the loss, and none was seen to raise it")
        return Limit(none, none, None, relation, None, None, none, False)
    rate = min(known)
    return Limit(
        eta=measuring.eta(rate),
        learning_rate=rate,
        estimator="critical" if rate == critical else "critical-independent",
        relation="crossing",
        limiting_layer=measuring.update.line.limiting,
        criterion=None,
        upper_eta=Missing(Why.UNCERTIFIABLE, "no step size is sure to lower the loss"),
        reliable=False,
    )


def read_layers(measuring: RateSearch, crossing: Crossing | None, limit: Limit) -> tuple[LayerRate, ...]:
    """The layers that move, and the tensor that limits even if it is no layer."""
    update, eta, found = measuring.update, limit.eta, []
    moves = {move.tensor.name: move for move in update.line.direction.moves}
    for tensor in measuring.tensors:
        name = tensor.name
        if name not in moves or not (tensor.is_layer or name == limit.limiting_layer):
            continue
        trust = Point(None, "uncertifiable")
        trust_eta: float | Missing = LIMIT_REACHED
        linear: float | Missing = LIMIT_REACHED
        if crossing is not None:
            linear = _linear_trust(crossing, name, moves[name].gradient_norm)
            if crossing.etas:
                trust = crossing.trust(name, moves[name].gradient_norm)
            if crossing.etas or crossing.stopped is None:
                trust_eta = TRUST[trust.relation] if trust.eta is None else trust.eta
        relative = update.relative_steps.get(name, update.line.relative_steps.get(name))
        step = relative or (NO_SIZE if tensor.is_layer else VECTOR)
        rate = eta if isinstance(eta, Missing) else step if isinstance(step, Missing) else eta / step
        found.append(
            LayerRate(
                name=name,
                kind=tensor.kind,
                shape=tuple(tensor.parameter.shape),
                parameters=tensor.parameter.numel(),
                cosine=update.cosines[name].value,
                cosine_stderr=_cosine_stderr(update, name),
                relative_step=step,
                trust_eta=trust_eta,
                trust_relation=trust.relation,
                linear_trust_eta=linear,
                learning_rate=rate,
            )
        )
    return tuple(found)


def _linear_trust(crossing: Crossing, name: str, gradient_norm: float) -> float | Missing:
    """Where the breakdown would reach its level along a straight line: level ||g|| / ||(H d)||."""
    if crossing.products is None:
        return NO_SLOPE if crossing.stopped is None else LIMIT_REACHED
    if name in crossing.certificate.noise:
        return ROUNDING
    change, level = crossing.products[name], crossing.certificate.levels[name] * gradient_norm
    if level <= 0.0:
        return TRUST["uncertifiable"]
    return level / change if change > 0.0 else NO_CURVATURE


def _cosine_stderr(update: NextUpdate, name: str) -> float | Missing:
    """The standard error of a tensor's cosine, or why there is none."""
    error = update.cosines[name].stderr
    if error is not None:
        return error
    if isinstance(update.noise, Missing):
        return update.noise
    if update.noise.count < 3:
        return FEW_PARTS
    return OWN_ROWS if update.memory else NO_COSINE


def read_noise_scale(update: NextUpdate) -> tuple[float | Missing, float | Missing, float | Missing]:
    """The noise scale, one standard error below it and one above."""
    noise = update.noise
    if isinstance(noise, Missing):
        return noise, noise, noise
    if noise.noise_scale is None:
        return NOISE_DOMINATES, NOISE_DOMINATES, NOISE_DOMINATES
    low, high = noise_scale_range(list(noise.chunks.values())) or (None, None)
    none = FEW_PARTS if noise.count < 3 else NO_NOISE if noise.noise_scale == 0.0 else NOT_BOUNDED
    return noise.noise_scale, none if low is None else low, none if high is None else high


def read_contradiction(crossing: Crossing | None, loss: float) -> tuple[float, float] | None:
    """The slopes of the loss at the start by its values and by its gradient, where these two disagree."""
    check = crossing.slope_check(loss) if crossing is not None else None
    if check is None or not check.contradicted or check.measured is None:
        return None
    return check.measured, check.expected


def read_zero_gradient(measuring: RateSearch) -> tuple[str, ...]:
    """The layers whose gradient is exactly zero, whether their step moves them or not."""
    direction = measuring.update.line.direction
    zero = {move.tensor.name for move in direction.moves if move.gradient_norm == 0.0}
    zero |= {skipped.name for skipped in direction.skipped if skipped.reason == Still.ZERO_GRADIENT}
    return tuple(tensor.name for tensor in measuring.tensors if tensor.is_layer and tensor.name in zero)


def read_points(crossing: Crossing | None) -> tuple[MeasuredPoint, ...]:
    """Where the gradient was taken."""
    if crossing is None:
        return ()
    return tuple(
        MeasuredPoint(eta, loss, excess)
        for eta, loss, excess in zip(crossing.etas, crossing.losses, crossing.excesses, strict=True)
    )


def read_settings(
    measuring: RateSearch, optimizer: Optimizer, limit: Limit, batch_size: int | None
) -> OptimizerSettings:
    """The optimizer that was asked about, which may be none, and its rate held against the limit."""
    unknown = OPTIMIZER_UNKNOWN if optimizer.name is None else None
    rate = unknown or (LEARNING_RATE_UNKNOWN if optimizer.learning_rate is None else optimizer.learning_rate)
    ratio = limit.learning_rate if isinstance(limit.learning_rate, Missing) else rate
    if not isinstance(rate, Missing) and not isinstance(limit.learning_rate, Missing):
        ratio = rate / limit.learning_rate
    return OptimizerSettings(
        name=optimizer.name,
        current_learning_rate=rate,
        lowest_learning_rate=measuring.matched.lowest_rate,
        current_ratio=ratio,
        momentum=optimizer.momentum if optimizer.has("momentum") else unknown,
        betas=optimizer.betas if optimizer.has("betas") else unknown,
        weight_decay=unknown or optimizer.weight_decay,
        filled=measuring.update.filled,
        train_batch_size=batch_size or measuring.problem.batch.size,
        groups=read_groups(measuring, limit.eta),
    )


def read_stability(measuring: RateSearch, rate: float | None, trained: bool | None) -> Stability:
    """The present rate held against the one from which on steps along the sharpest direction grow.

    `trained`: whether the weights are past their initialisation; None where that is not known.
    """
    stable = next((each.learning_rate for each in measuring.estimates if each.name == "sharpness"), NO_SHARPNESS)
    if isinstance(stable, Missing):
        return Stability(stable, stable)
    begins = measuring.optimizer.adaptive and hardly_begun(measuring.matched)
    bands = INITIAL_BANDS.get((optimizer_kind(measuring.optimizer), measuring.problem.loss.name), ((1.0, ""),))
    return Stability(
        stable,
        LEARNING_RATE_UNKNOWN if rate is None else rate / stable,
        adam_begins=begins,
        adam_unsaved=begins and trained is not False and not measuring.matched.holds_memory,
        diverged_from=bands[0][0] if bands[0][0] < 1.0 else None,
    )


def read_groups(measuring: RateSearch, eta: float | Missing) -> tuple[GroupRate, ...]:
    """The parameter groups of the checkpoint, each with its own largest rate; empty where they cannot be told."""
    state = measuring.matched.state
    if state is None:
        return ()
    told = measuring.matched.members_known
    members = measuring.matched.numbers if told else {}
    highest = max((float(group.settings.get("lr") or 0.0) for group in state.groups), default=0.0)
    found = []
    for index, group in enumerate(state.groups):
        names = [name for name, number in members.items() if number in group.numbers]
        rate, decay = group.settings.get("lr"), group.settings.get("weight_decay")
        share = float(rate) / highest if rate is not None and highest > 0.0 else 1.0
        steps = {n: measuring.update.relative_steps[n] for n in names if n in measuring.update.relative_steps}
        limit, limiting = (None, None) if isinstance(eta, Missing) else largest_rate(eta, steps)
        none = eta if isinstance(eta, Missing) else NO_LAYER_MOVES if told else MEMBERS_UNTOLD
        found.append(
            GroupRate(
                index=index,
                tensors=len(names) if told else len(group.numbers),
                learning_rate=LEARNING_RATE_UNKNOWN if rate is None else float(rate),
                weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else float(decay),
                limit=none if limit is None else limit * share,
                limiting_layer=limiting,
            )
        )
    return tuple(found)
