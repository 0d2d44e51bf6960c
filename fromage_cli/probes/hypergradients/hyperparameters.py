"""Which hyperparameters of a training run can be moved, where they act, and what moving one means for each tensor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING
from fromage_cli.problem.networks.layers import unwrapped

Place = Literal["decay", "rate", "loss", "dropout"]
"""Where a hyperparameter acts: in the optimizer's step, in the training loss, or in the forward pass."""
EVERYWHERE = "all"


@dataclass(frozen=True)
class Values:
    """The hyperparameters that a run is trained with."""

    rates: Mapping[str, float]
    """By tensor."""
    decays: Mapping[str, float]
    """By tensor."""
    loss: Mapping[str, float]
    """Label smoothing and scalars of the user's loss, by name."""
    dropout: Mapping[str, float]
    """The probability of each place that drops, by `module.attribute`."""

    def at(self, place: Place) -> Mapping[str, float]:
        """Those that act in one place."""
        return {"decay": self.decays, "rate": self.rates, "loss": self.loss, "dropout": self.dropout}[place]

    def moved(self, hyperparameter: "Hyperparameter", change: float) -> "Values":
        """The same with one hyperparameter moved: by `change` of its value, or by it where its value is 0."""
        held = self.at(hyperparameter.place)
        members = {
            name: held[name] * (1.0 + change) if hyperparameter.value else held[name] + change
            for name in hyperparameter.members
        }
        name = {"decay": "decays", "rate": "rates", "loss": "loss", "dropout": "dropout"}[hyperparameter.place]
        return replace(self, **{name: {**held, **members}})


@dataclass(frozen=True)
class Hyperparameter:
    """One number, or several that move together."""

    name: str
    """`weight-decay`, `dropout`, `label-smoothing`, `learning-rate`, or the user's keyword."""
    scope: str
    """`all`, `group:N`, a tensor, or a module."""
    value: float
    """The largest of its members."""
    place: Place
    members: tuple[str, ...]
    """Tensors, places that drop, or its name in the loss."""

    def per_unit(self, derivatives: Mapping[str, float], values: Values) -> float:
        """The derivative by its value, its members keeping their ratios: from those by each member."""
        if not self.value:
            return sum(derivatives[name] for name in self.members)
        held = values.at(self.place)
        return sum(derivatives[name] * held[name] / self.value for name in self.members)


def hyperparameters(matched: MatchedState, values: Values) -> list[Hyperparameter]:
    """All that can be moved, those of the widest scope first, in the order in which a page lists them."""
    decayed = tuple(name for name, decay in values.decays.items() if decay) or tuple(values.decays)
    found = []
    if matched.optimizer.has("weight_decay"):
        found += _over_tensors("weight-decay", "decay", decayed, values.decays, matched)
    if LABEL_SMOOTHING in values.loss:
        found.append(
            Hyperparameter(LABEL_SMOOTHING, EVERYWHERE, values.loss[LABEL_SMOOTHING], "loss", (LABEL_SMOOTHING,))
        )
    if values.dropout:
        largest = max(values.dropout.values())
        found.append(Hyperparameter("dropout", EVERYWHERE, largest, "dropout", tuple(values.dropout)))
        if len(values.dropout) > 1:
            found += [Hyperparameter("dropout", place, p, "dropout", (place,)) for place, p in values.dropout.items()]
    found += [
        Hyperparameter(name, EVERYWHERE, value, "loss", (name,))
        for name, value in values.loss.items()
        if name != LABEL_SMOOTHING
    ]
    return found + _over_tensors("learning-rate", "rate", tuple(values.rates), values.rates, matched)


def _over_tensors(
    name: str, place: Place, members: Sequence[str], held: Mapping[str, float], matched: MatchedState
) -> list[Hyperparameter]:
    """One for all members, one for each group that holds some where there are several, and one for each tensor."""

    def of(scope: str, names: Sequence[str]) -> Hyperparameter:
        return Hyperparameter(name, scope, max(held[each] for each in names), place, tuple(names))

    found = [of(EVERYWHERE, members)]
    state = matched.state
    if state is not None and matched.members_known and len(state.groups) > 1:
        for number, group in enumerate(state.groups):
            inside = [each for each in members if matched.numbers.get(each) in group.numbers]
            if inside and len(inside) < len(members):
                found.append(of(f"group:{number}", inside))
    return found + [of(each, [each]) for each in members if len(members) > 1]


def values_of(matched: MatchedState, rate: float, loss: Mapping[str, float], names: Sequence[str]) -> Values:
    """What the checkpoint's run is trained with; `names`: the tensors that it moves, `rate`: the highest of any group.

    Raises MismatchError where the state does not fit the model.
    """
    shares, decays = matched.rate_shares, matched.decays
    return Values(
        rates={name: rate * shares.get(name, 1.0) for name in names},
        decays={name: decays[name] for name in names} if matched.optimizer.has("weight_decay") else {},
        loss=loss,
        dropout={} if matched.problem.mode == "eval" else dict(_drops(matched.problem.model)),
    )


def drop_everywhere(model: nn.Module, probability: float) -> int:
    """Lets every place of the network that drops do so with this probability, and gives how many there are."""
    places = [place for place, _ in _drops(model, every=True)]
    modules = dict(unwrapped(model).named_modules())
    for place in places:
        name, _, attribute = place.rpartition(".")
        setattr(modules[name], attribute, probability)
    return len(places)


def _drops(model: nn.Module, *, every: bool = False) -> Iterator[tuple[str, float]]:
    """Where a network drops: the `p` of dropout layers, and numbers called dropout of other modules.

    Only those above 0, unless `every` is asked for.
    """
    for name, module in unwrapped(model).named_modules():
        layer = isinstance(module, nn.modules.dropout._DropoutNd)
        for attribute, value in vars(module).items():
            named = attribute == "p" if layer else "drop" in attribute and isinstance(value, float)
            if named and (0.0 < value < 1.0 or (every and value == 0.0)):
                yield f"{name}.{attribute}".lstrip("."), value


@contextmanager
def dropping(model: nn.Module, probabilities: Mapping[str, float]) -> Iterator[None]:
    """The network with these probabilities in the places that drop, and then as it was."""
    modules, before = dict(unwrapped(model).named_modules()), {}
    try:
        for place, probability in probabilities.items():
            name, _, attribute = place.rpartition(".")
            before[place] = getattr(modules[name], attribute)
            setattr(modules[name], attribute, probability)
        yield
    finally:
        for place, probability in before.items():
            name, _, attribute = place.rpartition(".")
            setattr(modules[name], attribute, probability)
