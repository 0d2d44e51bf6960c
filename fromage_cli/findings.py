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


def about_names(
    code: str, severity: Severity, names: Sequence[str], message: str, hint: str, *, limit: float | None = None
) -> Finding:
    """A finding about several tensors: its sentence ends with the first of them, its value is how many there are."""
    said, only = f"{message}: {first_names(names)}", names[0] if len(names) == 1 else None
    return Finding(code, severity, said, layer=only, value=float(len(names)), limit=limit, hint=hint)


def gradient_is_rounding(names: Sequence[str], consequence: str) -> Finding:
    """The gradient of these tensors is nothing but rounding; `consequence`: what follows from it, with its comma."""
    return about_names(
        "gradient-is-rounding",
        "info",
        names,
        f"the gradient of {counted(len(names), 'tensor')} is zero but for rounding{consequence}",
        "Usual for biases before a normalisation and for the keys' bias in attention; otherwise try --dtype float64.",
    )
