"""What a diagnostic concludes: a coded sentence with the number, the limit it was held against and the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fromage_cli.counting import counted, first_names

Severity = Literal["info", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One conclusion about a network, or about one of its layers."""

    code: str
    """Stable identifier in kebab-case, for scripts."""
    severity: Severity
    """`info` never changes the exit status; `warn` and `fail` do under `--fail-on`."""
    message: str
    """One sentence with the measured number in it."""
    layer: str | None = None
    """Name of the layer it is about; None for the whole network."""
    value: float | None = None
    """The number that was measured."""
    limit: float | None = None
    """The number it was held against."""
    hint: str = ""
    """What to do about it."""

    @property
    def prefix(self) -> str:
        """The layer that a line about it begins with; empty where its sentence names it."""
        return "" if self.layer is None or self.message.endswith(f": {self.layer}") else self.layer


def gravest_remedy(findings: Sequence[Finding]) -> str:
    """What to do about the gravest of them that says it, the first of equals; empty where none does."""
    order: tuple[Severity, ...] = ("fail", "warn", "info")
    said = [finding for finding in findings if finding.hint]
    return min(said, key=lambda finding: order.index(finding.severity)).hint if said else ""


def about_names(
    code: str, severity: Severity, names: Sequence[str], message: str, hint: str, *, limit: float | None = None
) -> Finding:
    """A finding about several tensors: its sentence ends with the first of them, its value is how many there are."""
    said, only = f"{message}: {first_names(names)}", names[0] if len(names) == 1 else None
    return Finding(code, severity, said, layer=only, value=float(len(names)), limit=limit, hint=hint)


def gradient_is_not_the_losses(measured: float, expected: float) -> Finding:
    """The loss changes along a line in another way than its gradient says; both are slopes at eta = 0."""
    return Finding(
        code="gradient-is-not-the-losses",
        severity="warn",
        message=(
            f"the gradient does not belong to this loss: a small step changes the loss by {measured:.3g} "
            f"η, and the gradient predicts {expected:.3g} η"
        ),
        value=measured,
        limit=expected,
        hint=(
            "Measure with the loss whose gradient you train with. Usual causes: gradient reversal, "
            "straight-through estimators, detached terms, a loss with jumps."
        ),
    )


def never_updated(names: Sequence[str]) -> Finding:
    """The optimizer's state has no slot for these layers, beside others that have one."""
    return about_names(
        "never-updated",
        "info",
        names,
        f"{counted(len(names), 'layer')} never updated, as the optimizer's state has no entry for "
        f"{'it' if len(names) == 1 else 'them'}",
        "Usual for frozen layers and buffers, and for layers of another optimizer whose state is not here.",
    )


def layers_unchanged(names: Sequence[str], total: int, checkpoints: int) -> Finding:
    """These layers, of `total`, hold the same bytes in all checkpoints of one network."""
    hold = f"{counted(len(names), 'layer')} {'holds' if len(names) == 1 else 'hold'} the same bytes"
    where = "both checkpoints" if checkpoints == 2 else f"all {checkpoints} checkpoints"
    if len(names) == total:
        message = f"no layer moved, as {hold} in {where}"
        hint = (
            "Possible causes: the same weights under several names, a learning rate of 0, or only biases "
            "and scales were trained."
        )
    else:
        message = f"{hold} in {where}, while others moved"
        hint = "Possible causes: frozen layers, layers without a gradient, or changes too small for the stored dtype."
    return about_names("layers-unchanged", "info", names, message, hint)


def layer_out_of_line(name: str, whose: str, factor: float, limit: float, *, alarming: bool = False) -> Finding:
    """A layer unlike its siblings, which may be what is wrong when another one fails first.

    `whose`: what differs with its verb, as `weights are`; `factor`: over what the siblings tell; `alarming`: whether
    it is a warning.
    """
    return Finding(
        code="layer-out-of-line",
        severity="warn" if alarming else "info",
        layer=name,
        message=f"its {whose} {float(f'{factor:.2g}'):g} × as large as in its sibling layers",
        value=factor,
        limit=limit if factor >= 1.0 else 1.0 / limit,
        hint="Look here first: at its initialisation, its learning rate, and what scales its input.",
    )


def weights_out_of_line(name: str, factor: float, limit: float) -> Finding:
    """A layer whose weights are unlike those of its siblings: a warning where they are larger."""
    return layer_out_of_line(name, "weights are", factor, limit, alarming=factor > 1.0)


def gradient_is_zero(names: Sequence[str]) -> Finding:
    """The gradient of these tensors is exactly zero, not noise and not rounding."""
    return about_names(
        "gradient-is-zero",
        "info",
        names,
        f"the gradient of {counted(len(names), 'tensor')} is exactly 0",
        "Usual before a head that starts at zero, for units that never activate, and where the input is zero.",
        limit=0.0,
    )


def layers_without_size(names: Sequence[str]) -> Finding:
    """Layers whose weights are zero or far smaller than their step, of which no relative step is taken."""
    return about_names(
        "layers-without-size",
        "info",
        names,
        f"η does not count {counted(len(names), 'layer')} with weights near zero",
        "Usual for heads that start at zero, LoRA's second factor, and class tokens near zero.",
    )


def gradient_is_rounding(names: Sequence[str]) -> Finding:
    """The gradient of these tensors is nothing but rounding."""
    return about_names(
        "gradient-is-rounding",
        "info",
        names,
        f"left out: {counted(len(names), 'tensor')} without a gradient beyond rounding",
        "Usual for biases before a normalisation and for the key bias of attention. Otherwise try --dtype float64.",
    )
