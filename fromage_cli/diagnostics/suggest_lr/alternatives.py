"""The limit as every optimizer would have it, where nobody says which one it is."""

from collections.abc import Mapping
from dataclasses import replace

from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch
from fromage_cli.diagnostics.suggest_lr.result import Alternative
from fromage_cli.errors import MismatchError, NumericalError, ResourceError
from fromage_cli.missing import Missing, Why, failed, known
from fromage_cli.optimizers.rule import RULES
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.optimizers.typical_rates import typical_rate_of
from fromage_cli.probes.lines.critical import critical_rate
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_step import measure_next_step
from fromage_cli.probes.optimizer_step.next_update import stand_in
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates
from fromage_cli.probes.optimizer_step.step_direction import step_line

USUAL_MOMENTUM = 0.9
"""Of rules whose default is none, which hardly anyone trains with."""
PRECISION = 1.2
"""Up to this factor the rate is known that raises the loss."""
FORWARDS = 60
"""Forward passes at most, for all of them together."""
USED_UP = Missing(Why.LIMIT_REACHED, "the forward passes for all optimizers together were used up")
NO_RISE = Missing(Why.NO_RISE, "none of the rates that were tried raises the loss")


def measure_alternatives(measuring: RateSearch, eta: float | Missing, *, new: bool) -> tuple[Alternative, ...]:
    """Each optimizer's rate for a step of relative size eta, its critical rate and its typical one.

    `new`: whether the weights are untrained. Its noise stands in for their memories. Costs about five forward passes
    each, 60 at most. Ends early, keeping what it has, when a limit of the budget is reached.
    """
    found: list[Alternative] = []
    rises, until = known(eta), measuring.problem.evaluations.forwards + FORWARDS
    if isinstance(measuring.error, ResourceError):
        return ()
    try:
        memory, _ = stand_in(measuring.problem, known(measuring.update.noise))
        for rule in RULES.values():
            left = round(until - measuring.problem.evaluations.forwards)
            usual = Optimizer(rule.name).with_settings(rule.defaults)
            if rule.defaults.get("momentum") == 0.0:
                usual = replace(usual, momentum=USUAL_MOMENTUM)
            other, rises = _alternative(measuring, usual, eta, memory, new=new, rises=rises or 1e-2, left=left)
            found.append(other)
            measuring.advance()
    except ResourceError as limit:
        measuring.error = limit
    return tuple(found)


def _alternative(
    measuring: RateSearch,
    rule: Optimizer,
    eta: float | Missing,
    memory: Mapping[str, MomentEstimates],
    *,
    new: bool,
    rises: float,
    left: int,
) -> tuple[Alternative, float]:
    """One rule's rates, by `left` forward passes at most; and the relative step from which on the loss rises.

    `rises`: where the rule before had it, which is where the search begins.
    """
    name, usual = rule.name or "", typical_rate_of(rule, new=new, parameters=measuring.parameters)[0]
    try:
        step = measure_next_step(MatchedState(measuring.problem, rule), memory)
        line = step_line(measuring.problem, measuring.tensors, step, name)
    except MismatchError as error:
        return Alternative(name, failed(error), failed(error), usual), rises
    limit = eta if isinstance(eta, Missing) else eta * line.learning_rate
    moved = {tensor.name: step.moved(tensor) for tensor in measuring.tensors if tensor.name in step.steps}
    start = rises * line.learning_rate
    critical: float | Missing = USED_UP
    if left > 1:
        try:
            rate = critical_rate(
                measuring.problem, moved, start, rule.contraction, precision=PRECISION, attempts=left - 1
            )
            critical = NO_RISE if rate is None else rate
        except NumericalError as rounded:
            critical = Missing(Why.HIDDEN_BY_ROUNDING, rounded.message)
    found = Alternative(name, limit, critical, usual)
    return found, rises if isinstance(critical, Missing) else critical / line.learning_rate
