"""The trainable tensors of a model, by name: each once, however often it is used."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from fromage_cli.problem.graphs.network import class_name
from fromage_cli.shards import NAMES_BEFORE


@dataclass(frozen=True)
class TrainableTensor:
    """A parameter that training would move."""

    name: str
    """The first of its names in the model."""
    parameter: nn.Parameter
    kind: str
    """The class of the module that owns it, such as `Linear`."""
    aliases: tuple[str, ...] = ()
    """Further names of a tied tensor."""

    @property
    def is_layer(self) -> bool:
        """Whether it has two or more dimensions, as weight matrices, kernels and embeddings do."""
        return self.parameter.dim() >= 2


def owner_of(name: str) -> tuple[str, str]:
    """The module that a tensor belongs to and the tensor's own name there, parametrisations looked through."""
    owner, parametrized, rest = f".{name}".partition(".parametrizations.")
    if parametrized:
        return owner.removeprefix("."), rest.partition(".")[0]
    owner, _, leaf = name.rpartition(".")
    return owner, leaf


def named_weights(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's parameters by the names that they have where they are not sharded."""
    modules = dict(model.named_modules(remove_duplicate=False))
    named = {plain_name(name, modules): p for name, p in model.named_parameters(remove_duplicate=False)}
    order = next((getattr(module, NAMES_BEFORE) for module in modules.values() if hasattr(module, NAMES_BEFORE)), named)
    seen: set[int] = set()
    for name in order:
        if not remove_duplicate or id(named[name]) not in seen:
            seen.add(id(named[name]))
            yield name, named[name]


def plain_name(name: str, modules: Mapping[str, nn.Module]) -> str:
    """The name that a tensor has where the model is not sharded; `modules`: the model's, by name."""
    owner, _, leaf = name.rpartition(".")
    if leaf == "original" and hasattr(modules[owner][0], NAMES_BEFORE):  # type: ignore[index]
        return ".".join(filter(None, owner_of(name)))
    return name


def trainable_tensors(model: nn.Module) -> list[TrainableTensor]:
    """The parameters that require a gradient, in model order, tied ones once."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in named_weights(model, remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
            parameters[id(parameter)] = parameter
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for key, (first, *others) in names.items():
        module = modules[owner_of(first)[0]]
        kind = class_name(module).removeprefix("Parametrized")
        found.append(TrainableTensor(first, parameters[key], kind, tuple(others)))
    return found


def frozen_names(model: nn.Module) -> list[str]:
    """The names of parameters that do not require a gradient."""
    return [name for name, parameter in named_weights(model) if not parameter.requires_grad]


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Lets the named parameters require no gradient any more."""
    for name, parameter in named_weights(unwrapped(model)):
        if name in names:
            parameter.requires_grad_(False)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model
