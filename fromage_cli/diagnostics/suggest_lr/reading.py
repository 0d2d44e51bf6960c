"""What is read off a finished measurement: the limit, each layer's and each group's share in it."""

from collections.abc import Mapping, Sequence

from fromage_cli.diagnostics.suggest_lr.partial_measurement import PartialMeasurement
from fromage_cli.diagnostics.suggest_lr.result import GroupRate, LayerRate, Limit, MeasuredPoint
from fromage_cli.errors import ResourceError
from fromage_cli.missing import Missing, Why
from fromage_cli.probes.lines.crossing import Crossing
from fromage_cli.theory.conversions import largest_rate

BEYOND = Missing(Why.ABOVE_GRID, "every step that was tried is certain to descend")


def read_limit(
    measuring: PartialMeasurement, crossings: Sequence[Crossing | None], critical: float | None, elsewhere: float | None
) -> Limit:
    """The measured limit; where descent is nowhere certain, the smallest rate that was seen to raise the loss.

    `crossings`: by layers, and of the sum over all tensors, which stands in where some layer is certain nowhere.
    """
    crossing = crossings[0]
    for name, found in zip(("measured", "measured-sum"), crossings, strict=True):
        if found is not None and found.eta is not None:
            return Limit(
                eta=found.eta,
                learning_rate=measuring.rate(found.eta),
                estimator=name,
                relation=found.relation,
                limiting_layer=found.limiting,
                criterion=found.criterion,
                upper_eta=BEYOND if found.upper is None else found.upper,
                reliable=found.closed and (measuring.matched.state is None or measuring.matched.state.rates_told),
                averaged=measuring.update.sampled,
            )
    relation = crossing.relation if crossing is not None else "uncertifiable"
    known = [rate for rate in (critical, elsewhere) if rate is not None]
    if not known:
        limited = isinstance(measuring.error, ResourceError)
        code = Why.LIMIT_REACHED if limited else Why.BELOW_GRID if relation == "below-grid" else Why.UNCERTIFIABLE
        none = Missing(code, "no step was found that is certain to descend, and none was seen to raise the loss")
        return Limit(none, none, None, relation, None, None, none, False)
    rate = min(known)
    return Limit(
        eta=measuring.eta(rate),
        learning_rate=rate,
        estimator="critical" if rate == critical else "critical-independent",
        relation="crossing",
        limiting_layer=measuring.update.line.limiting,
        criterion=None,
        upper_eta=Missing(Why.UNCERTIFIABLE, "no step was found that is certain to descend"),
        reliable=False,
    )


def read_layers(measuring: PartialMeasurement, crossing: Crossing | None, eta: float | None) -> tuple[LayerRate, ...]:
    """The layers that move, and the tensor that limits even if it is no layer.

    `linear_trust_eta`: where the breakdown would reach its level along a straight line, level ||g|| / ||(H d)||.
    """
    update, found = measuring.update, []
    moves = {move.tensor.name: move for move in update.line.direction.moves}
    limiting = crossing.limiting if crossing is not None else None
    for tensor in measuring.tensors:
        name = tensor.name
        if name not in moves or not (tensor.is_layer or name == limiting):
            continue
        gradient_norm, relative = moves[name].gradient_norm, update.relative_steps.get(name)
        trust = crossing.trust(name, gradient_norm) if crossing is not None and crossing.etas else None
        linear = None
        if crossing is not None and crossing.products is not None and name not in crossing.certificate.noise:
            change, level = crossing.products[name], crossing.certificate.levels[name] * gradient_norm
            linear = level / change if change > 0.0 and level > 0.0 else None
        found.append(
            LayerRate(
                name=name,
                kind=tensor.kind,
                shape=tuple(tensor.parameter.shape),
                parameters=tensor.parameter.numel(),
                cosine=update.cosines[name].value,
                cosine_stderr=update.cosines[name].stderr,
                relative_step=relative if relative is not None else update.line.relative_steps.get(name),
                trust_eta=trust.eta if trust is not None else None,
                trust_relation=trust.relation if trust is not None else "uncertifiable",
                linear_trust_eta=linear,
                learning_rate=eta / relative if eta is not None and relative else None,
            )
        )
    return tuple(found)


def read_points(crossing: Crossing | None) -> tuple[MeasuredPoint, ...]:
    """Where the gradient was taken."""
    if crossing is None:
        return ()
    return tuple(
        MeasuredPoint(eta, loss, excess)
        for eta, loss, excess in zip(crossing.etas, crossing.losses, crossing.excesses, strict=True)
    )


def read_groups(measuring: PartialMeasurement, eta: float | None) -> tuple[GroupRate, ...]:
    """The parameter groups of the checkpoint, each with its own largest rate; empty where they cannot be told."""
    state = measuring.matched.state
    if state is None:
        return ()
    members = measuring.matched.numbers if len(state.groups) == 1 or state.members_told else {}
    highest = max((float(group.settings.get("lr") or 0.0) for group in state.groups), default=0.0)
    found = []
    for index, group in enumerate(state.groups):
        names = [name for name, number in members.items() if number in group.numbers]
        rate = _optional(group.settings, "lr")
        share = rate / highest if rate is not None and highest > 0.0 else 1.0
        steps = {n: measuring.update.relative_steps[n] for n in names if n in measuring.update.relative_steps}
        limit, limiting = largest_rate(eta, steps) if eta is not None else (None, None)
        found.append(
            GroupRate(
                index=index,
                tensors=len(names),
                learning_rate=rate,
                weight_decay=_optional(group.settings, "weight_decay"),
                limit=limit * share if limit is not None else None,
                limiting_layer=limiting,
            )
        )
    return tuple(found)


def _optional(settings: Mapping[str, object], name: str) -> float | None:
    value = settings.get(name)
    return None if value is None else float(value)  # type: ignore[arg-type]
