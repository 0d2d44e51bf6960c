"""The rates of every optimizer, each along its own next update, where nobody says which one it is."""

from collections.abc import Iterator
from dataclasses import replace

from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch, Request, begin
from fromage_cli.diagnostics.suggest_lr.reading import read_limit
from fromage_cli.diagnostics.suggest_lr.result import Alternative
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.missing import LIMIT_REACHED, failed
from fromage_cli.optimizers.rule import RULES
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings, first_known
from fromage_cli.optimizers.typical_rates import typical_rate_of
from fromage_cli.probes.optimizer_step.matched_state import MatchedState

USUAL_MOMENTUM = 0.9
"""Of rules whose default is none, which hardly anyone trains with."""


def measure_alternatives(measuring: RateSearch, request: Request) -> tuple[Alternative, ...]:
    """Each optimizer's limit, critical rate and typical rate, with fresh state, as if it had been asked about.

    Costs about 15 gradients each. Ends early, keeping what it has, when a limit of the budget is reached.
    """
    found = []
    for optimizer in usual_optimizers(request.given, request.declared):
        if isinstance(measuring.error, ResourceError):
            break
        measuring.problem.evaluations.doing = f"the next update of {optimizer.name}"
        found.append(_alternative(measuring, optimizer, request))
    return tuple(found)


def usual_optimizers(given: Given, declared: Given) -> Iterator[Optimizer]:
    """Every rule with the settings that were given or declared, else its usual ones."""
    for rule in RULES.values():
        momentum = first_known(given.momentum, declared.meant_for(rule.name).momentum)
        if rule.defaults.get("momentum") == 0.0 and momentum is None:
            momentum = USUAL_MOMENTUM
        yield find_settings(replace(given, name=rule.name, momentum=momentum), None, declared)


def settings_as_flags(optimizer: Optimizer) -> str:
    """What its rates are for, as it would be typed: `--momentum 0.9`."""
    flags = {name: value for name, value in optimizer.flags.items() if optimizer.has(name) and value}
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in flags.items()
    )


def _alternative(measuring: RateSearch, optimizer: Optimizer, request: Request) -> Alternative:
    """One optimizer's rates; what a limit cuts off is missing."""
    name, settings = optimizer.name or "", settings_as_flags(optimizer)
    usual = typical_rate_of(optimizer, new=request.new, parameters=measuring.parameters)[0]
    try:
        search = begin(
            MatchedState(measuring.problem, optimizer), measuring.tensors, request=request, advance=measuring.advance
        )
        crossings = search.certain()
        critical = search.critical(search.start(crossings))
    except MismatchError as error:
        return Alternative(name, settings, failed(error), failed(error), usual)
    except ResourceError as limit:
        measuring.error = limit
        return Alternative(name, settings, LIMIT_REACHED, LIMIT_REACHED, usual)
    measuring.error = search.error
    return Alternative(name, settings, read_limit(search, crossings, None, None).learning_rate, critical, usual)
