"""What a distance means for the user: codes, limits and words."""

import math
from collections.abc import Iterator, Sequence

from fromage_cli.counting import counted, first_names
from fromage_cli.diagnostics.distance.result import DistanceResult, LayerDistance
from fromage_cli.findings import Finding, about_names
from fromage_cli.missing import known

TURNED = math.pi / 2.0
"""Angle from which on a layer has nothing left of where it was, radians."""
ROUNDING = {"float8_e5m2": 2.0**-3, "float8_e4m3fn": 2.0**-4, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half the gap between neighbouring numbers of a narrow dtype, relative to them."""


def judge(result: DistanceResult) -> tuple[Finding, ...]:
    """The findings of a distance, the gravest kinds first."""
    return (*_not_comparable(result), *_layers(result.layers))


def _not_comparable(result: DistanceResult) -> Iterator[Finding]:
    """Layers that have no distance, tensors without a counterpart, and ties that only one of the two has."""
    for layer in result.layers:
        if not math.isfinite(layer.first_norm + layer.second_norm):
            yield Finding(
                code="distance-not-finite",
                severity="fail",
                layer=layer.name,
                message="holds NaN or infinity in one of the two, so it has no distance",
                hint="inspect counts the entries. Go back to an earlier checkpoint.",
            )
    for names, where in (
        (result.unpaired.only_first, "only in the first"),
        (result.unpaired.only_second, "only in the second"),
        (result.unpaired.reshaped, "of different shapes in the two"),
    ):
        if names:
            hint = "Compare checkpoints of one architecture, or choose tensors with --include and --exclude."
            left_out = f"{_counted(names)} {where}, and left out"
            yield about_names("tensors-unpaired", "warn", names, left_out, hint, limit=0.0)
    for groups, which in ((result.unpaired.first_ties, "first"), (result.unpaired.second_ties, "second")):
        for group in groups:
            yield Finding(
                code="ties-differ",
                severity="info",
                message=f"{first_names(group)} are one tensor in the {which} alone",
                value=float(len(group)),
                hint="The other holds a copy under each name, and each is compared.",
            )


def _layers(layers: Sequence[LayerDistance]) -> Iterator[Finding]:
    """Layers that have turned all the way, have not moved at all, or are stored in two dtypes."""
    turned = [(angle, layer) for layer in layers if (angle := known(layer.angle)) is not None and angle >= TURNED]
    if turned:
        angle, most = max(turned, key=lambda one: one[0])
        yield Finding(
            code="layer-turned",
            severity="info",
            layer=most.name,
            message=f"turned by {math.degrees(angle):.0f}° from where it was"
            + (f"; {counted(len(turned) - 1, 'more layer')} turned by 90° or further" if len(turned) > 1 else ""),
            value=angle,
            limit=TURNED,
            hint="Nothing is left of the first weights: networks of separate runs, or a layer that was re-initialised.",
        )
    unmoved = [layer.name for layer in layers if layer.relative_distance == 0.0]
    if unmoved and len(unmoved) < len(layers):
        hint = "Frozen, without a gradient, or moved by less than its dtype can hold."
        same = f"{_counted(unmoved)} the same in both, to the last digit"
        yield about_names("layer-unmoved", "info", unmoved, same, hint)
    pairs = {(layer.first_dtype, layer.second_dtype) for layer in layers if layer.first_dtype != layer.second_dtype}
    for first, second in sorted(pairs):
        changed = [layer for layer in layers if (layer.first_dtype, layer.second_dtype) == (first, second)]
        distances = [known(layer.relative_distance) for layer in changed]
        furthest = max((distance for distance in distances if distance is not None), default=None)
        limit = max(ROUNDING.get(first, 0.0), ROUNDING.get(second, 0.0))
        coarser = first if ROUNDING.get(first, 0.0) == limit else second
        apart = "" if furthest is None else f", at most {furthest:.3g} apart"
        if furthest is not None and 0.0 < furthest <= limit:
            apart += f", no further than by rounding to {coarser}"
        yield Finding(
            code="dtypes-differ",
            severity="info",
            message=f"{len(changed)} of {counted(len(layers), 'layer')} {'is' if len(changed) == 1 else 'are'} "
            f"{first} in the first and {second} in the second{apart}",
            value=furthest,
            limit=limit or None,
            hint="The stored numbers are compared as they are.",
        )


def _counted(names: Sequence[str]) -> str:
    """How many tensors, with the verb that follows."""
    return f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'}"
