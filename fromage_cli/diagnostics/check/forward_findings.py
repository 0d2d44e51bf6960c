"""What one forward pass concludes; the limits come from runs whose health is known (docs/run-study.md)."""

from collections.abc import Iterator

from fromage_cli.findings import Finding
from fromage_cli.missing import Missing
from fromage_cli.probes.forward_pass.measure import ForwardPass, HeldOut

MOST_UNITS = 0.5
"""Share of a layer's units that may be 0 on every row: at most .38 in healthy runs, .94 where 15 of 16 never act."""
FEWEST_VALUES = 32
"""Values of each unit below which many are 0 by chance: a unit that is on for a tenth of the rows needs as many."""
STALE = 0.1
"""Nats between running and batch statistics: at most .018 in healthy runs, from .53 on where they are stale."""
TIMES_EXPECTED = 4.0
"""And how many times what a batch of so many rows gives by chance: at most 2.3 in healthy runs."""
WORSE = 0.1
"""Share by which the loss is larger in evaluation: at most .07 in healthy runs, from .23 on where they are stale."""
GUESSING = 0.9
"""Loss over that of guessing, after the first step: above it in one healthy run of 23, which warms up."""
GAP = 2.0
"""Held-out loss over that of the batch; two of 23 healthy runs exceed it, which is why it is for information."""


def judge_forward(forward: ForwardPass, trained: bool | None) -> tuple[Finding, ...]:
    """What is remarkable about a forward pass; `trained`: whether there were steps before it, where that is known."""
    found = [*_units(forward)]
    if trained is not False:  # before training nothing is learned and nothing is remembered
        found += [*_statistics(forward, trained), *_guessing(forward, trained)]
        if isinstance(forward.held_out, HeldOut):
            found += _held_out(forward, forward.held_out)
    return tuple(found)


def _units(forward: ForwardPass) -> Iterator[Finding]:
    """Layers of which more than half the units do nothing on this batch."""
    for layer in forward.units:
        if layer.share > MOST_UNITS and layer.values >= FEWEST_VALUES:
            yield Finding(
                code="units-dead",
                severity="warn",
                layer=layer.after or layer.name or None,
                message=f"{layer.dead} of its {layer.units} units are 0 on every row of the batch",
                value=layer.share,
                limit=MOST_UNITS,
                hint=(
                    "They get no gradient, and so stay as they are. Lower the learning rate, look at the biases before "
                    "them, or take an activation without zeros."
                ),
            )


def _statistics(forward: ForwardPass, trained: bool | None) -> Iterator[Finding]:
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


def _guessing(forward: ForwardPass, trained: bool | None) -> Iterator[Finding]:
    """A loss that says that nothing is learned yet; where no steps are known, it may be of the first weights."""
    guessing = forward.guessing
    if not isinstance(guessing, Missing) and guessing.ratio >= GUESSING:
        yield Finding(
            code="no-better-than-guessing",
            severity="warn" if trained else "info",
            message=(
                f"not learned yet: the loss is {guessing.loss:.3g}, and an output that ignores the input gives "
                f"{guessing.guess:.3g}"
            ),
            value=guessing.ratio,
            limit=GUESSING,
            hint=(
                "Early in a run this is usual: look again later. Else the rate may be too low or too high, or the "
                "targets may not belong to their rows."
            ),
        )


def _held_out(forward: ForwardPass, rows: HeldOut) -> Iterator[Finding]:
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
