"""What only several layers, or several answers together, tell: layers out of line, forgotten ones, decay too strong."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fromage_cli.checkpoints.layers import GATES, LINEAR, MAPS, is_lookup_table
from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.result import Beside, OutOfLine
from fromage_cli.findings import Finding, about_names, weights_out_of_line
from fromage_cli.missing import known
from fromage_cli.terminal.words import number
from fromage_cli.theory.siblings import LEAST, WEIGHT_FACTOR, odd_weights, sibling_groups

LARGE = 4.0
"""Size of a matrix beside the median of its network from which on it is said: at most 2.4 in healthy runs."""
SHRUNK = 0.5
"""Median over layers of last norm by first one from which on decay is too strong: at least .9 in healthy runs."""
DECAYED = 0.5
"""Share of the first weights that decay has left: at least .65 in healthy runs."""
GROWN = 4.0
"""Median over layers of last norm by first one from which on growth without decay is said: at most 3.3 in healthy
runs."""
FEW = 0.5
"""Share of layers up to which those that do not move may have been forgotten; more are frozen on purpose."""
HE = math.sqrt(2.0)
"""Root mean square of Kaiming initialisation for ReLU times the square root of inputs: the largest usual size."""
USUAL = {"network": "those of the median layer", "usual size": "Kaiming initialisation makes them"}
"""What a layer without siblings is held against, as it is said."""
UNIFORM = 1.0 / math.sqrt(3.0)
"""Root mean square of torch's default weights of linear and convolutional layers, times the square root of inputs."""
NEAR = 0.05
"""Relative distance from the default's root mean square and largest entry that a draw of few entries has."""
_GAIN = re.compile(r"norm|(^|[._])(ln|bn)([._\d]|$)", re.IGNORECASE)
"""Names of gains, which begin at one whatever their number of inputs."""
_WEIGHT = re.compile(r"weight|kernel|proj|(^|[._])w(_?\w)?\d*$", re.IGNORECASE)
"""Names of parameters; masks, tables of frequencies and other buffers, which never move, have others."""
ROUNDING = 1e-2
"""By which 16-bit weights may exceed the default's largest entry."""


@dataclass(frozen=True)
class Answered:
    """The results that are compared, as far as there are any."""

    inspect: Any = None
    state: Any = None
    norms: Any = None
    in_network: bool = False
    """Whether the loss and its curvature were looked at."""

    @classmethod
    def of(cls, results: Mapping[str, object]) -> "Answered":
        """Those among the results of all commands."""
        network = {"forward-pass", "sharpness"} <= set(results)
        return cls(results.get("inspect"), results.get("state"), results.get("norms"), network)

    @property
    def layers(self) -> Sequence[Any]:
        """The layers along the run, of which at least two norms are known."""
        return () if self.norms is None else [one for one in self.norms.layers if len(one.norms) > 1]

    @property
    def has_kinds(self) -> bool:
        """Whether the network tells of each layer along the run what it is."""
        return bool(self.layers) and all(one.kind is not None for one in self.layers)

    @property
    def warms_up(self) -> bool:
        """Whether the learning rate of the last file is above that of the one before."""
        files = () if self.state is None else self.state.files[-2:]
        rates = [rate for one in files if (rate := known(one.learning_rate)) is not None]
        return len(rates) == 2 and rates[1] > rates[0]

    @property
    def factor(self) -> float | None:
        """The median over layers of the last norm by the first one."""
        factors = [factor for one in self.layers if not one.unchanged and (factor := known(one.first_to_last))]
        return median(factors) if factors else None


def find_out_of_line(answered: Answered) -> tuple[OutOfLine, ...]:
    """The matrices of the last file that differ from their siblings, or began far larger than all others.

    A matrix without siblings is held against the whole network: root mean square times the square root of its inputs,
    by which the initialisations of torch make all matrices alike. Trained networks differ there, so the first file of
    a run counts. A network with few matrices is held against Kaiming initialisation, where it tells of each what it is.
    Lookup tables and gains have no such size. A small matrix is none of these, as a branch or an output may begin at
    zero.
    """
    tensors: Sequence[Any] = () if answered.inspect is None else answered.inspect.tensors
    last = {one.name: one for one in tensors if len(one.shape) > 1 and (known(one.rms) or 0.0) > 0.0}
    kinds = {} if answered.norms is None else {one.name: one.kind for one in answered.norms.layers}
    tables = {name for name in {*last, *kinds} if is_lookup_table(name, kinds.get(name))}
    shapes = {name: tuple(one.shape) for name, one in last.items() if name not in tables}
    odd = odd_weights(shapes, {name: one.rms for name, one in last.items()})
    grouped = {name for names in sibling_groups(shapes) for name in names}
    first = {one.name: (one.first_norm / math.sqrt(one.parameters), one.shape) for one in answered.layers}
    scaled = {
        name: rms * math.sqrt(shape[0] / GATES[kind] if kind in GATES else math.prod(shape[1:]))
        for name, (rms, shape) in (first or {name: (one.rms, one.shape) for name, one in last.items()}).items()
        if name not in tables and _GAIN.search(name) is None and (kind := kinds.get(name) or LINEAR[0]) in MAPS
    }
    usual = median(scaled.values()) if len(scaled) >= LEAST else HE if answered.has_kinds else math.inf
    large = {name: size / usual for name, size in scaled.items() if size > LARGE * usual and name not in grouped}
    beside: Beside = "network" if len(scaled) >= LEAST else "usual size"
    return (
        *(OutOfLine(one.name, one.factor, "siblings") for one in odd),
        *(OutOfLine(name, factor, beside) for name, factor in large.items()),
    )


def judge_together(answered: Answered, odd: Sequence[OutOfLine]) -> tuple[Finding, ...]:
    """What follows from the answers side by side."""
    return (
        *(judge_size(one, answered.has_kinds) for one in odd),
        *judge_decay(answered),
        *judge_forgotten(answered),
    )


def judge_size(one: OutOfLine, known_kinds: bool) -> Finding:
    """A layer out of line: a warning where it is too large; without siblings, where the network tells what it is.

    Other kinds than linear and convolutional layers have sizes of their own.
    """
    if one.among == "siblings":
        return weights_out_of_line(one.name, one.factor, WEIGHT_FACTOR)
    return Finding(
        code="layer-large",
        severity="warn" if known_kinds else "info",
        layer=one.name,
        message=f"its weights {'began' if known_kinds else 'are'} {one.factor:.2g} × as large as {USUAL[one.among]}, "
        "for its number of inputs",
        value=one.factor,
        limit=LARGE,
        hint="Look at how this layer is initialised, and at its learning rate.",
    )


def judge_decay(answered: Answered) -> Iterator[Finding]:
    """Weight decay that is far too strong, and scale-invariant layers that grow without any."""
    groups = () if answered.state is None else answered.state.groups
    left = {place: share for place, one in enumerate(groups) if (share := known(one.remaining)) is not None}
    decayed = [place for place, share in left.items() if share < DECAYED and known(groups[place].weight_decay)]
    if answered.factor is not None and answered.factor < SHRUNK and decayed:
        strongest = groups[min(decayed, key=lambda place: left[place])]
        yield Finding(
            code="decay-too-strong",
            severity="warn",
            message="weight decay shrinks the network: the median norm of a layer is "
            f"{answered.factor:.2g} × its first one",
            value=answered.factor,
            limit=SHRUNK,
            hint=f"Lower the weight decay ({number(strongest.weight_decay)}) or the learning rate "
            f"({number(strongest.learning_rate)}): what counts is their product. Alone, these two take weights to 37 % "
            f"in {number(strongest.timescale)} steps.",
        )
    undecayed = bool(groups) and all(known(one.weight_decay) == 0.0 for one in groups)
    normalised = [one for one in answered.layers if one.invariance.verdict in ("invariant", "approximate")]
    grown = {one.name: factor for one in normalised if (factor := known(one.first_to_last) or 0.0) > GROWN}
    if grown and undecayed:
        worst = max(grown, key=lambda name: grown[name])
        yield Finding(
            code="grows-without-decay",
            severity="warn",
            layer=worst,
            message=f"its norm is {grown[worst]:.2g} × its first one, and nothing stops it: it is scale-invariant, and "
            "its weights do not decay",
            value=grown[worst],
            limit=GROWN,
            hint="Decay its weights (5e-4 is usual under BatchNorm), or bound their norm. Its effective learning rate "
            "falls as its norm grows.",
        )


def judge_forgotten(answered: Answered) -> Iterator[Finding]:
    """Layers that never move though others do, and that nobody froze on purpose as far as one can tell.

    Whoever freezes layers on purpose freezes the first ones, trained before, or most.
    """
    layers = () if answered.norms is None else answered.norms.layers
    still = [place for place, one in enumerate(layers) if one.unchanged or one.never_updated]
    if not still or len(still) > FEW * len(layers):
        return
    first = min(set(range(len(layers))) - set(still))
    fresh = as_initialised(answered)
    names = [
        name
        for place in still
        if (name := layers[place].name) in fresh
        or (place > first and _WEIGHT.search(name) is not None and not is_lookup_table(name, layers[place].kind))
    ]
    if names:
        held = ", and still has its first random weights" if len(names) == 1 and names[0] in fresh else ""
        yield about_names(
            "layer-forgotten",
            "warn",
            names,
            f"{counted(len(names), 'layer')} never moved while others did{held}",
            "Look whether the optimizer has these parameters, and whether they require a gradient. Of layers that are "
            "frozen on purpose, silence this rule.",
        )


def as_initialised(answered: Answered) -> set[str]:
    """Names of matrices that are spread as torch's default initialisation spreads them: evenly, up to 1/√inputs."""
    tensors = () if answered.inspect is None else answered.inspect.tensors
    found = set()
    for one in tensors:
        rms, largest = known(one.rms), known(one.max_abs)
        if len(one.shape) > 1 and rms is not None and largest is not None:
            scale = math.sqrt(math.prod(one.shape[1:]))
            if abs(scale * rms / UNIFORM - 1.0) < NEAR and 1.0 - NEAR < scale * largest < 1.0 + ROUNDING:
                found.add(one.name)
    return found
