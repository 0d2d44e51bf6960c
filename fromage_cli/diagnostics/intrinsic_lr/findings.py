"""What equilibria mean for the user: codes, limits and words."""

import math
from collections.abc import Iterator

from fromage_cli.counting import counted
from fromage_cli.diagnostics.intrinsic_lr.result import DOUBT, IntrinsicResult
from fromage_cli.findings import Finding, about_names, never_updated
from fromage_cli.missing import known
from fromage_cli.optimizers.effective_rate import rate_power
from fromage_cli.optimizers.rule import RULES
from fromage_cli.terminal.words import OPTIMIZER_TITLES

FAR = 2.0
"""Factor between a norm and its equilibrium from which it is said: SGD's effective rate is then four times off."""
NEAR = math.log(0.9), math.log(1.1)
"""Where ln of a norm over its equilibrium lies for a layer that has settled."""
TURNING = 1.5
"""Factor between the steps that explain a rotation and those expected, from which it is said."""
ABOVE = 1.1
"""Angle over the expected one from which it is said that a layer turned further."""
MEMORY = 3.0
"""Settling should take so many times the optimizer's memory; at 2.5, AdamW's took 15 % longer."""
SETTLED = 0.2
"""Distance of ln ‖W‖^power from its end up to which the norm counts as unchanged between two checkpoints."""
SOON = 0.25
"""Part of a settling time within which it does so too, however far it is from its end."""
OFF_SCHEDULE = 0.02
"""Distance of a saved rate from the schedule, in shares of the peak, from which the schedule is another one."""
RIGHT = 1e-2
"""Cosine from which on an angle counts as a right one."""


def judge(result: IntrinsicResult, tested: str = "Add --model and --batch.") -> tuple[Finding, ...]:
    """The findings of a network against its equilibria, the gravest kinds first.

    `tested`: how to test the layers for scale invariance, to be typed.
    """
    return (
        *_untested(result, tested),
        *_schedule(result),
        *_norms(result),
        *_rotations(result),
        *_forecast(result),
        *_reach_of_the_theory(result),
    )


def untested_layers(result: IntrinsicResult) -> list[str]:
    """The layers that move and of which no model showed whether they are scale-invariant."""
    return [layer.name for layer in result.layers if layer.verdict == "untested" and not layer.unchanged]


def _untested(result: IntrinsicResult, tested: str) -> Iterator[Finding]:
    """Layers whose equilibria are assumed: most networks have layers that have none."""
    if names := untested_layers(result):
        yield about_names(
            "scale-invariance-untested",
            "warn",
            names,
            f"not tested for scale invariance, so that this may not apply: {len(names)} of "
            f"{counted(len(result.layers), 'layer')}",
            tested,
        )


def _schedule(result: IntrinsicResult) -> Iterator[Finding]:
    """A rate that changes in ways not known, a schedule that does not fit, and entries without gradients."""
    if result.schedule_doubt is not None:
        yield Finding(
            code="schedule-unknown",
            severity="info",
            message=f"the learning rate is not constant: {result.schedule_doubt}. So there is no equilibrium norm and "
            "no forecast",
            hint="Constant after a warm-up: give --schedule constant --warmup-steps 20. "
            "Else give --schedule cosine (or linear, or FILE) --warmup-steps 500 --total-steps 10000.",
        )
    if result.schedule_gap is not None and result.schedule_gap > OFF_SCHEDULE:
        yield Finding(
            code="schedule-mismatch",
            severity="warn",
            message=f"the rates in the checkpoints are up to {100.0 * result.schedule_gap:.2g} % of the peak off the "
            "schedule. So the forecast is that of another run",
            value=result.schedule_gap,
            limit=OFF_SCHEDULE,
            hint="Correct --schedule, --warmup-steps or --total-steps.",
        )
    inactive = [layer for layer in result.layers if layer.inactive]
    if inactive:
        most = max(inactive, key=lambda layer: layer.inactive / layer.parameters)
        share = 100.0 * most.inactive / most.parameters
        yield about_names(
            "entries-without-gradient",
            "info",
            [layer.name for layer in inactive],
            f"left out: up to {share:.2g} % of a layer's entries, which never received a gradient",
            "Usual behind inputs that are always zero. The norm shown is that of the whole layer.",
        )
    without = [layer for layer in result.layers if layer.units_without_size]
    if without:
        count = sum(layer.units_without_size for layer in without)
        yield about_names(
            "units-without-size",
            "info",
            [layer.name for layer in without],
            f"left out: {counted(count, 'unit')} of zeros, which {'has' if count == 1 else 'have'} no direction",
            "Pruning leaves such units, or a step that went too far.",
        )


def _norms(result: IntrinsicResult) -> Iterator[Finding]:
    """Layers whose norm grows for ever, and those far from where it settles."""
    growths = [(known(layer.growth_per_step) or 0.0, layer) for layer in result.layers]
    growing = [(growth, layer) for growth, layer in growths if growth > 0.0]
    if growing:
        growth, fastest = max(growing, key=lambda one: one[0])
        others = f" (nor {'has one more layer' if len(growing) == 2 else f'have {len(growing) - 1} more layers'})"
        relative = result.optimizer in RULES and RULES[result.optimizer].relative
        hint = "Decay the weights: their norm then settles, and the effective rate with it."
        if relative and result.decay == "decoupled":
            rate, decay = known(fastest.learning_rate), known(fastest.weight_decay)
            balance = ""
            if rate and decay is not None:
                balance = f"; past the gradient, only a decay of {growth / rate + decay:.3g} holds it"
            hint = f"Let the decay be part of the gradient, so that the norm settles{balance}. "
            hint += "Or divide the update by √(1+η'²), as Fromage does."
        yield Finding(
            code="no-equilibrium",
            severity="info",
            layer=fastest.name,
            message=f"has no equilibrium norm{others if len(growing) > 1 else ''}: its norm would double in "
            f"{math.log(2.0) / growth:.0f} steps"
            f"{'' if relative else ' at this pace, growing ever more slowly, and its effective rate falls'}",
            value=growth,
            limit=0.0,
            hint=hint,
        )
    for layer in result.layers:
        ratio, steps = known(layer.log_ratio), known(layer.steps_to_equilibrium)
        if ratio is None or steps is None or abs(ratio) < math.log(FAR):
            continue
        side, speed = ("above", "more slowly") if ratio > 0.0 else ("below", "faster")
        turning = f": it turns {speed} than it will in the end" if rate_power(result.optimizer) else ""
        epochs = f" ({steps / result.steps_per_epoch:.3g} epochs)" if result.steps_per_epoch and steps else ""
        yield Finding(
            code="far-from-equilibrium",
            severity="info",
            layer=layer.name,
            message=f"its norm is {math.exp(abs(ratio)):.3g} × {side} equilibrium, "
            f"{steps:.0f} steps{epochs} away{turning}",
            value=ratio,
            limit=math.log(FAR),
            hint="To settle sooner, raise learning rate × weight decay, or initialise nearer to the equilibrium norm.",
        )


def _rotations(result: IntrinsicResult) -> Iterator[Finding]:
    """Layers that turned further than random steps at the present norm would turn them.

    Less far is no news: a trained layer moves back and forth in its valley.
    """
    power = rate_power(result.optimizer) or 0
    before, after = result.steps[-2:] if len(result.steps) > 1 else (None, None)
    steps = after - before if isinstance(before, int) and isinstance(after, int) else 0
    above: dict[bool, dict[str, float]] = {False: {}, True: {}}
    off: list[Finding] = []
    for layer in result.layers:
        expected, observed = known(layer.expected_rotation), known(layer.observed_rotation)
        log_ratio, relaxation = known(layer.log_ratio), known(layer.relaxation_steps)
        if not expected or not observed:
            continue
        unsettled = abs(power * (log_ratio or 0.0)) > SETTLED
        if observed > ABOVE * expected:
            above[unsettled][layer.name] = observed / expected
        if unsettled and relaxation and steps > SOON * relaxation:
            continue  # the norm was another one for much of the way, so that the present one explains no angle
        place = "equilibrium" if log_ratio is None and not result.changing else "this norm"
        at_norm = _decorrelation(expected) * math.exp(-2.0 * power * (log_ratio or 0.0))
        ratio = math.sqrt(_decorrelation(observed) / at_norm)
        if ratio > TURNING:
            above[unsettled].pop(layer.name, None)
            off.append(
                Finding(
                    code="rotation-off",
                    severity="info",
                    layer=layer.name,
                    message=f"turned by {math.degrees(observed):.3g}° between the last two checkpoints; random "
                    f"gradients would need {ratio:.2g} × larger steps for that at {place}",
                    value=ratio,
                    limit=TURNING,
                    hint="Possible causes: gradients that agree between batches, a changed learning rate, or a layer "
                    "that is not scale-invariant.",
                )
            )
    yield from sorted(off, key=lambda finding: -(finding.value or 0.0))
    reasons = {False: "the steps agree more than random ones", True: "the norms have not settled"}
    for unsettled, layers in above.items():
        if layers:
            more = f"up to {100.0 * (max(layers.values()) - 1.0):.0f} % further than expected"
            yield about_names(
                "rotation-above-law",
                "info",
                list(layers),
                f"turned {more}; {reasons[unsettled]}",
                "Expected is for settled layers whose gradients are random.",
                limit=ABOVE,
            )


def _decorrelation(angle: float) -> float:
    """−ln cos: what the steps of a random walk add up to, where the angle itself ends at a right one."""
    return -0.5 * math.log1p(-min(math.sin(min(angle, math.pi / 2.0)) ** 2, 1.0 - RIGHT**2))


def _forecast(result: IntrinsicResult) -> Iterator[Finding]:
    """The forecast whose equation explains the norm so far worst."""
    off = [
        (abs(math.log(ratio)), ratio, layer.name)
        for layer in result.layers
        if layer.forecast_doubtful and (ratio := known(layer.norm_ratio))
    ]
    if off:
        _, ratio, name = max(off)
        yield Finding(
            code="forecast-doubtful",
            severity="info",
            layer=name,
            message=f"its forecast is doubtful: the same theory has its norm so far {ratio:.3g} × as large as it is "
            f"({len(off)} of {counted(len(result.layers), 'layer')})",
            value=ratio,
            limit=1.0 + math.copysign(DOUBT, ratio - 1.0),
            hint="Rely on the forecast no further than on the norms so far, which -v shows.",
        )


def memory_steps(result: IntrinsicResult) -> float:
    """Steps over which the optimizer averages: 1 / (1 − its slowest β or momentum)."""
    return 1.0 / (1.0 - (max(result.betas) if result.betas else result.momentum or 0.0))


def _reach_of_the_theory(result: IntrinsicResult) -> Iterator[Finding]:
    """Layers whose times theory gives only roughly, those it does not cover, and those whose bias it leaves out."""
    memory, total = memory_steps(result), sum(not (layer.unchanged or layer.never_updated) for layer in result.layers)
    times = [(steps, layer.name) for layer in result.layers if (steps := known(layer.relaxation_steps)) is not None]
    short = [(steps, name) for steps, name in times if steps < MEMORY * memory]
    if short:
        steps, shortest = min(short, key=lambda one: one[0])
        title = OPTIMIZER_TITLES.get(result.optimizer, result.optimizer)
        yield Finding(
            code="relaxation-too-short",
            severity="info",
            layer=shortest,
            message=f"settles in {steps:.0f} steps, hardly more than the {memory:.0f} that {title} averages over: "
            f"the times are rough ({len(short)} of {counted(total, 'layer')})",
            value=steps,
            limit=MEMORY * memory,
            hint="Norms and angles hold all the same; settling takes longer than shown.",
        )
    silent = [layer.name for layer in result.layers if layer.verdict == "none" and not layer.unchanged]
    if never := [layer.name for layer in result.layers if layer.never_updated]:
        yield never_updated(never)
    if silent:
        message = f"without an equilibrium norm, not being scale-invariant: {len(silent)} of {counted(total, 'layer')}"
        yield about_names("not-scale-invariant", "info", silent, message, "norms shows how they change.")
    joint = [layer.name for layer in result.layers if layer.granularity == "joint"]
    if joint:
        message = "scale-invariant only together with a bias, which the numbers leave out"
        hint = "They are right while the bias is small beside the weights and decays as they do."
        yield about_names("invariant-with-bias", "info", joint, message, hint)
