"""A network that a file describes: its modules, its tensors and the arguments of its `forward`, without its code."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.errors import InputError
from fromage_cli.problem.graphs.graph import DEEPEST, DTYPES, LARGEST_NUMBER
from fromage_cli.problem.graphs.program import Program

HEADS = (
    "num_heads",
    "n_heads",
    "n_head",
    "nhead",
    "heads",
    "num_attention_heads",
    "num_key_value_heads",
    "num_kv_heads",
    "n_kv_heads",
)
"""What attention modules, and configurations, call the number of their heads."""
LONGEST_LIST, LONGEST_TEXT = 16, 200
"""Members of a list, and characters of a text, that are kept of a module's attributes."""
DAMAGED = "The file is damaged, or was not written by fromage-diag."
_HOLDERS = ("parameters", "buffers", "modules")
"""What a module registers by name."""
_KINDS = {
    "positional-only": inspect.Parameter.POSITIONAL_ONLY,
    "positional": inspect.Parameter.POSITIONAL_OR_KEYWORD,
    "more-positional": inspect.Parameter.VAR_POSITIONAL,
    "named": inspect.Parameter.KEYWORD_ONLY,
    "more-named": inspect.Parameter.VAR_KEYWORD,
}


_LISTED = ("modules", "parameters", "buffers", "ties")
"""What the description of a network lists by name."""
Wrong = Callable[[str], InputError]
"""Makes the error for a description that cannot be read, from what is wrong with it."""


class GraphModule(nn.Module):
    """A module of a class that is not torch's own, of which only the name is known."""

    original_name: str
    """The name of its class."""


def describe_network(model: nn.Module) -> dict[str, Any]:
    """Describe modules, tensors and arguments in JSON's own types; nothing of the tensors' values."""
    modules = {
        name: {
            "class": class_name(module),
            "torch": getattr(nn, type(module).__name__, None) is type(module),
            "attributes": attributes_of(module),
            "absent": {
                kind: [each for each, value in getattr(module, f"_{kind}").items() if value is None]
                for kind in _HOLDERS
            },
        }
        for name, module in model.named_modules(remove_duplicate=False)
    }
    first: dict[tuple[Any, ...], str] = {}
    parameters: dict[str, Any] = {}
    buffers: dict[str, Any] = {}
    ties: dict[str, str] = {}
    persistent = set(model.state_dict(keep_vars=True))
    for name, tensor in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(place_of(tensor), name)
        if known != name:
            ties[name] = known
        else:
            parameters[name] = {**_described(tensor), "trained": tensor.requires_grad}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        known = first.setdefault(place_of(buffer), name)
        if known != name and known in buffers:
            ties[name] = known
        else:
            buffers[name] = {**_described(buffer), "persistent": name in persistent}
    return {
        "modules": modules,
        "parameters": parameters,
        "buffers": buffers,
        "ties": ties,
        "arguments": _arguments(model),
    }


def class_name(module: nn.Module) -> str:
    """The name of a module's class, also of one that a graph or a script stands for."""
    return str(getattr(module, "original_name", type(module).__name__))


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """What two names of one tensor have in common: its memory, seen alike."""
    if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter) or not tensor.numel():
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """The numbers, texts and short lists that a module holds; the counts of heads also from its configuration."""
    speaker = getattr(module, "config", None)
    of_heads = {name: getattr(speaker, name, None) for name in HEADS}
    found = {name: value for name, value in of_heads.items() if type(value) is int}
    found |= {name: value for name, value in vars(module).items() if _may_be_set(name) and _is_plain(value)}
    return found


def _may_be_set(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_") and not hasattr(nn.Module, name) and name != "training"


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
    if isinstance(value, list | tuple):
        return len(value) <= LONGEST_LIST and all(type(part) in (bool, int, float) for part in value)
    if type(value) is int:
        return abs(value) <= LARGEST_NUMBER
    return value is None or type(value) in (bool, float)


def _arguments(model: nn.Module) -> list[dict[str, Any]]:
    """What `forward` takes."""
    words = {kind: word for word, kind in _KINDS.items()}
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return [{"name": "inputs", "kind": "more-positional", "default": False}]
    return [
        {"name": each.name, "kind": words[each.kind], "default": each.default is not inspect.Parameter.empty}
        for each in parameters
    ]


def build_network(described: Any, program: Program, buffers: Mapping[str, Tensor], where: str) -> nn.Module:
    """Build the network on the meta device, so that its weights can be loaded into it.

    `buffers`: the values of those that no checkpoint holds. `where` names the file in messages. Classes of torch are
    taken from `torch.nn` by their names and not called; others are a GraphModule. Raises InputError.
    """
    wrong = partial(_wrong, where)
    listed = {key: described.get(key) if isinstance(described, dict) else None for key in _LISTED}
    if not all(isinstance(value, dict) for value in listed.values()) or "" not in (listed["modules"] or {}):
        raise wrong("it describes no network")
    modules = _modules(listed["modules"] or {}, wrong)
    _add_tensors(modules, listed, buffers, wrong)
    network = modules[""]
    for path, module in modules.items():
        if isinstance(module, nn.RNNBase):
            module._flat_weights_names = list(module._parameters)
            module._init_flat_weights()
        module.forward = partial(program.call, path)
    network.forward.__signature__ = _signature(described.get("arguments"), wrong)  # type: ignore[attr-defined]
    program.attach(network)
    return network


def _modules(described: Mapping[str, Any], wrong: Wrong) -> dict[str, nn.Module]:
    """The modules by name, each in its owner."""
    modules: dict[str, nn.Module] = {}
    for name, one in described.items():
        module = _build_module(one, name, wrong)
        owner, _, leaf = name.rpartition(".")
        if name:
            if owner not in modules or not leaf or name.count(".") > DEEPEST:
                raise wrong(f"the module {name[:80]!r} belongs to none")
            try:
                modules[owner].add_module(leaf, module)
            except (KeyError, TypeError) as error:
                raise wrong(f"the module {name[:80]!r} cannot be in its owner") from error
        modules[name] = module
    return modules


def _add_tensors(
    modules: Mapping[str, nn.Module], listed: Mapping[str, Any], buffers: Mapping[str, Tensor], wrong: Wrong
) -> None:
    """Gives the modules their parameters and buffers; tied ones are one object under several names."""
    made: dict[str, Tensor] = {}
    for name, one in listed["parameters"].items():
        empty = _empty(one, name, wrong)
        trained = one.get("trained") is True and (empty.is_floating_point() or empty.is_complex())
        made[name] = nn.Parameter(empty, trained)
        _register(modules, name, made[name], wrong)
    for name, one in listed["buffers"].items():
        empty, persistent = _empty(one, name, wrong), one.get("persistent") is True
        if not persistent:
            if name not in buffers or buffers[name].shape != empty.shape or buffers[name].dtype != empty.dtype:
                raise wrong(f"the buffer {name[:80]!r} has no values")
            empty = buffers[name].clone()
        made[name] = empty
        _register(modules, name, empty, wrong, persistent=persistent)
    for alias, name in listed["ties"].items():
        if not isinstance(name, str) or name not in made:
            raise wrong(f"the tensor {alias[:80]!r} is tied to none")
        _register(modules, alias, made[name], wrong)


def _build_module(described: Any, name: str, wrong: Wrong) -> nn.Module:
    if not isinstance(described, dict) or not isinstance(described.get("class"), str):
        raise wrong(f"the module {name[:80]!r} has no class")
    if described.get("torch") is True:
        kind: Any = getattr(nn, described["class"], None)
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise wrong(f"torch.nn has no module {described['class'][:80]!r}")
        module: nn.Module = kind.__new__(kind)
        nn.Module.__init__(module)
    else:
        module = GraphModule()
        module.original_name = described["class"][:LONGEST_TEXT]
    attributes = described.get("attributes")
    for key, value in attributes.items() if isinstance(attributes, dict) else ():
        if _may_be_set(key) and _is_plain(value) and not callable(getattr(type(module), key, None)):
            module.__dict__[key] = tuple(value) if isinstance(value, list) else value
    absent = described["absent"] if isinstance(described.get("absent"), dict) else {}
    for holder in _HOLDERS:
        names = absent.get(holder) or []
        if not isinstance(names, list):
            raise wrong(f"what the module {name[:80]!r} lacks is no list")
        for key in names:
            if isinstance(key, str) and key.isidentifier() and not hasattr(type(module), key):
                getattr(module, f"_{holder}")[key] = None
    return module


def _empty(described: Any, name: str, wrong: Wrong) -> Tensor:
    shape = described.get("shape") if isinstance(described, dict) else None
    size = 1
    if isinstance(shape, list) and all(type(part) is int and 0 <= part <= LARGEST_NUMBER for part in shape):
        for part in shape:
            size *= part
        if (
            isinstance(described.get("dtype"), str)
            and described["dtype"] in DTYPES
            and size <= LARGEST_NUMBER
            and len(shape) <= LONGEST_LIST
        ):
            return torch.empty(shape, dtype=DTYPES[described["dtype"]], device="meta")
    raise wrong(f"the tensor {name[:80]!r} has no shape or no type")


def _register(
    modules: Mapping[str, nn.Module],
    name: str,
    tensor: Tensor,
    wrong: Wrong,
    *,
    persistent: bool = True,
) -> None:
    owner, _, leaf = name.rpartition(".")
    try:
        if isinstance(tensor, nn.Parameter):
            modules[owner].register_parameter(leaf, tensor)
        else:
            modules[owner].register_buffer(leaf, tensor, persistent)
    except (KeyError, TypeError) as error:
        raise wrong(f"the tensor {name[:80]!r} cannot be in its module") from error


def _signature(described: Any, wrong: Wrong) -> inspect.Signature:
    def parameters() -> Iterator[inspect.Parameter]:
        for one in described:
            default = None if one["default"] else inspect.Parameter.empty
            yield inspect.Parameter(one["name"], _KINDS[one["kind"]], default=default)

    try:
        return inspect.Signature(list(parameters()))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise wrong("the arguments of its forward are not known") from error


def _wrong(where: str, why: str) -> InputError:
    return InputError(f"{where} cannot be read: {why}.", DAMAGED)
