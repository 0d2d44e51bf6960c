"""What one forward pass concludes; the limits come from runs whose health is known (docs/run-study.md)."""

import math
from collections.abc import Iterator

from fromage_cli.findings import Finding
from fromage_cli.missing import Missing
from fromage_cli.probes.forward_pass.measure import ForwardPass, HeldOut

MOST_UNITS = 0.5
"""Share of a layer's units that may be 0 on every row: at most .38 in healthy runs, .94 where 15 of 16 never act."""
FEWEST_VALUES = 32
"""Values of each unit below which many are 0 by chance: a unit that is on for a tenth of the rows needs as many."""
USUALLY_ON = 10.0
"""Values at which the other units must be on. Sparse features are on at a few alone, and more rows tell."""
STALE = 0.1
"""Nats between running and batch statistics: at most .018 in healthy runs, from .53 on where they are stale."""
TIMES_EXPECTED = 4.0
"""And how many times what a batch of so many rows gives by chance: at most 2.3 in healthy runs."""
WORSE = 0.1
"""Share by which the loss is larger in evaluation: at most .07 in healthy runs, from .23 on where they are stale."""
GUESSING = 0.9
"""Loss over that of guessing, after the first step: above it in one healthy run of 23, which warms up."""
FAR_WORSE = 2.0
"""Loss over that of guessing from which on it is a warning even while it falls."""
FALLS = 0.01
"""Share by which the loss is lower than at the checkpoint before where it still falls."""
LEARNED = 0.95
"""Loss over that of guessing above which too little is learned to lose a share of it."""
GONE, MOSTLY_GONE = 0.2, 0.5
"""Share of what was learned that may be gone: at most .16 in 52 healthy runs of docs/early-warning.md."""
GAP = 2.0
"""Held-out loss over that of the batch; two of 23 healthy runs exceed it, which is why it is for information."""


TOO_LARGE = (
    "Look at the first weights: their RMS (fromage-diag inspect) is usually .6 to 1.4 over the root of a layer's "
    "inputs. Then lower the learning rate."
)
TOO_LITTLE = (
    "The learning rate may be too high or too low, or the targets may not belong to their rows. A transformer with "
    "normalisation after each branch needs a warm-up. Early in a run this is usual: look again later."
)


def judge_forward(forward: ForwardPass, trained: bool | None) -> tuple[Finding, ...]:
    """What is remarkable about a forward pass; `trained`: whether there were steps before it, where that is known."""
    found = [*judge_units(forward)]
    if trained is not False:  # before training nothing is learned and nothing is remembered
        found += [*judge_statistics(forward, trained), *judge_course(forward), *_guessing(forward, trained)]
        if isinstance(forward.held_out, HeldOut):
            found += judge_held_out(forward, forward.held_out)
    return tuple(found)


def judge_units(forward: ForwardPass) -> Iterator[Finding]:
    """Layers of which more than half the units do nothing on this batch."""
    for layer in forward.units:
        if layer.share > MOST_UNITS and layer.values >= FEWEST_VALUES:
            sparse = layer.usual is not None and layer.usual < USUALLY_ON
            yield Finding(
                code="units-dead",
                severity="info" if sparse else "warn",
                layer=layer.after or layer.name or None,
                message=f"{layer.dead} of its {layer.units} units are 0 on every row of the batch",
                value=layer.share,
                limit=MOST_UNITS,
                hint="The others are on at a few values alone. Give more rows: some of these may be on there."
                if sparse
                else (
                    "They get no gradient, and so stay as they are. Lower the learning rate, look at the biases before "
                    "them, or take an activation without zeros."
                ),
            )


def judge_statistics(forward: ForwardPass, trained: bool | None) -> Iterator[Finding]:
    """The layer whose running statistics are farthest off, where evaluation suffers from it."""
    tracked = [layer for layer in forward.batch_statistics if layer.tracked or trained]
    farthest = max(tracked, key=lambda layer: layer.distance, default=None)
    if farthest is None:
        return
    limit = max(STALE, TIMES_EXPECTED * farthest.expected_distance)
    worse = forward.loss_in_evaluation - forward.loss > WORSE * abs(forward.loss)
    if worse and farthest.distance > limit:
        yield Finding(
            code="batch-statistics-stale",
            severity="warn",
            layer=farthest.name,
            message=(
                f"its running statistics are {farthest.distance:.2g} nats from those of the batch, and in evaluation "
                f"the loss is {forward.loss_in_evaluation:.3g}, not {forward.loss:.3g}"
            ),
            value=farthest.distance,
            limit=limit,
            hint=(
                "Run some training batches through the network in training mode before evaluating, or raise the "
                "momentum of BatchNorm."
            ),
        )


def judge_course(forward: ForwardPass) -> Iterator[Finding]:
    """A loss that was lower at an earlier checkpoint, by much of what had been learned there."""
    best = min(forward.earlier, key=lambda one: one.loss, default=None)
    if best is None or isinstance(forward.guessing, Missing):
        return
    learned = forward.guessing.guess - best.loss
    if learned < (1.0 - LEARNED) * forward.guessing.guess:
        return
    gone = (forward.loss - best.loss) / learned
    if gone > GONE:
        when = "at an earlier checkpoint" if best.step is None else f"at step {best.step}"
        share = f"{min(gone, 1.0):.0%}".replace("%", " %")
        yield Finding(
            code="loss-rises",
            severity="fail" if gone > MOSTLY_GONE else "warn",
            message=f"{share} of what was learned is gone: the loss was {best.loss:.3g} {when}, and is "
            f"{forward.loss:.3g} now",
            value=gone,
            limit=MOSTLY_GONE if gone > MOSTLY_GONE else GONE,
            hint=(
                "Go back to that checkpoint and lower the learning rate. If something else changed since, such as "
                "data, schedule or optimizer state, look there."
            ),
        )


def _guessing(forward: ForwardPass, trained: bool | None) -> Iterator[Finding]:
    """A loss that says that nothing is learned yet; for information where it still falls, or may be the first one."""
    guessing = forward.guessing
    before = forward.earlier[-1].loss if forward.earlier else math.inf
    falls = math.isfinite(before) and forward.loss < (1.0 - FALLS) * before
    if not isinstance(guessing, Missing) and guessing.ratio >= GUESSING:
        far = guessing.ratio >= FAR_WORSE
        yield Finding(
            code="no-better-than-guessing",
            severity="warn" if trained and (far or not falls) else "info",
            message=(
                f"{'far worse' if far else 'hardly better'} than guessing: the loss is {guessing.loss:.3g}, and an "
                f"output that ignores the input gives {guessing.guess:.3g}"
            ),
            value=guessing.ratio,
            limit=GUESSING,
            hint=TOO_LARGE if far else TOO_LITTLE,
        )


def judge_held_out(forward: ForwardPass, rows: HeldOut) -> Iterator[Finding]:
    """A loss that does not carry over to rows that training does not see, both as training normalises them."""
    guess = None if isinstance(rows.guessing, Missing) else rows.guessing.guess
    learned = not isinstance(forward.guessing, Missing) and forward.guessing.ratio < GUESSING
    lost = learned and guess is not None and rows.loss >= guess
    if lost or rows.loss > GAP * forward.loss > 0.0:
        yield Finding(
            code="loss-differs-from-held-out",
            severity="warn" if lost else "info",
            message=(
                f"the loss is {forward.loss:.3g} on the batch, and {rows.loss:.3g} on held-out rows"
                + (f", where guessing gives {guess:.3g}" if lost else "")
            ),
            value=rows.loss,
            limit=guess if lost else GAP * forward.loss,
            hint=(
                "The network knows rows that it has seen. Take more of them or stronger regularisation. Look also "
                "for wrong targets, and for another preparation of the held-out rows."
            ),
        )
