"""A network that a file describes has the modules and tensors of the live one, and runs none of its code."""

import copy
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.errors import InputError
from fromage_cli.problem.graphs.graph import read_graph
from fromage_cli.problem.graphs.network import build_network, class_name, describe_network
from fromage_cli.problem.graphs.program import Program

Json = Any
NOTHING = {"inputs": ["x"], "body": {"arguments": [{"value": "x"}], "named": {}, "steps": [], "result": {"value": "x"}}}


class Attention(nn.Module):
    """A class of the user's own, with heads, a tie, buffers of both kinds and a frozen tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.name, self.ratio, self.sizes = 2, "mine", 0.5, (1, 2)
        self.secret = object()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.parts = nn.ModuleDict({"norm": nn.LayerNorm(4), "drop": nn.Dropout(0.25)})
        self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.parts["norm"].bias.requires_grad_(False)
        self.register_buffer("places", torch.arange(5), persistent=False)
        self.register_buffer("mask", torch.ones(2, 2))
        self.register_buffer("none", None)

    def forward(self, x: Any, /, mask: Any = None, *rest: Any, scale: float = 1.0, **more: Any) -> Any:
        raise AssertionError("it is not called")


def program() -> Program:
    return Program({"eval": read_graph(NOTHING, "the graph")}, torch.float32, {}, aliases={})


def built(described: Json, buffers: dict[str, torch.Tensor] | None = None) -> nn.Module:
    given = {"places": torch.arange(5), "mask": torch.ones(2, 2)} if buffers is None else buffers
    return build_network(described, program(), given, "the file")


@pytest.fixture(scope="module")
def whole() -> Json:
    return json.loads(json.dumps(describe_network(Attention())))


@pytest.fixture
def described(whole: Json) -> Json:
    return copy.deepcopy(whole)


def test_modules_and_tensors_are_those_of_the_live_network(described: Json) -> None:
    live, found = Attention(), built(described)
    for both in ("named_modules", "named_parameters", "named_buffers"):
        names = [[name for name, _ in getattr(network, both)()] for network in (live, found)]
        assert sorted(names[0]) == sorted(names[1])
        assert len(set(names[0])) == len(names[0])
    pairs = [(live.get_parameter(name), each) for name, each in found.named_parameters()]
    pairs += [(live.get_buffer(name), each) for name, each in found.named_buffers()]
    for first, second in pairs:
        assert (first.shape, first.dtype, first.requires_grad) == (second.shape, second.dtype, second.requires_grad)
    assert [*live.state_dict()] == [*found.state_dict()]
    assert found.head.weight is found.embed.weight
    assert found.places.tolist() == [0, 1, 2, 3, 4]
    assert inspect.signature(found.forward).parameters.keys() == inspect.signature(live.forward).parameters.keys()


def test_classes_of_torch_are_its_own_and_others_are_names(described: Json) -> None:
    found = built(described)
    assert type(found.embed) is nn.Embedding and type(found.recurrent) is nn.LSTM
    assert type(found.parts["norm"]) is nn.LayerNorm
    assert (class_name(found), isinstance(found, Attention)) == ("Attention", False)
    assert "Attention" not in vars(nn)


def test_plain_attributes_are_kept(described: Json) -> None:
    found: Any = built(described)
    assert (found.num_heads, found.name, found.ratio, found.sizes) == (2, "mine", 0.5, (1, 2))
    assert not hasattr(found, "secret")
    assert (found.parts["drop"].p, found.embed.num_embeddings, found.none) == (0.25, 7, None)


def test_nothing_of_the_values_is_described(described: Json) -> None:
    other = Attention()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3.0)
    assert json.loads(json.dumps(describe_network(other))) == described


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "Module.__init__",
            "functional",
            "init",
            "Linear.__class__",
            "__builtins__",
            "Parameter",
            "Any",
            "",
            "nothing",
        ),
        *("__loader__", "utils", "modules.Linear", "parallel", "Buffer"),
    ],
)
def test_a_class_that_torch_has_not_is_refused(described: Json, kind: str) -> None:
    described["modules"]["embed"]["class"] = kind
    with pytest.raises(InputError, match="no module"):
        built(described)


@pytest.mark.parametrize("kind", ["DataParallel", "Transformer", "ModuleList", "Module"])
def test_a_class_of_torch_is_not_called(described: Json, kind: str) -> None:
    """Its own constructor would need arguments, and could do anything."""
    described["modules"]["parts.drop"]["class"] = kind
    assert isinstance(built(described).parts["drop"], getattr(nn, kind))


@pytest.mark.parametrize(
    "name",
    [
        *("forward", "__class__", "__dict__", "_forward_hooks", "_parameters", "_modules", "training", "state_dict"),
        *("register_buffer", "T_destination", "dump_patches", "call_super_init", "__call__", "a b", "", "_call_impl"),
        *("named_parameters", "extra_repr", "__getattr__", "flatten_parameters", "num_heads()"),
    ],
)
def test_an_attribute_takes_the_place_of_nothing(described: Json, name: str) -> None:
    for module in ("", "recurrent"):
        described["modules"][module]["attributes"] = {name: 5}
    found = built(described)
    for module in (found, found.recurrent):
        taken = hasattr(type(module), name) or not name.isidentifier() or name.startswith("_") or name == "training"
        assert not taken or vars(module).get(name) != 5


def at(*path: str, value: Json) -> Callable[[Json], None]:
    """A change of one place."""

    def change(described: Json) -> None:
        holder = described
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value

    return change


FLOATS = {"dtype": "float32", "shape": [4], "trained": True}
DAMAGED: dict[str, Callable[[Json], None]] = {
    "no modules": at("modules", value=[]),
    "no root": at("modules", value={"a": {"class": "Linear", "torch": True}}),
    "a module that is a text": at("modules", "embed", value="Linear"),
    "a class that is a number": at("modules", "embed", "class", value=3),
    "a module in none": at("modules", "no.where", value={"class": "X"}),
    "a module with an empty name": at("modules", "embed.", value={"class": "X"}),
    "a module in a method's place": at("modules", "forward", value={"class": "X"}),
    "modules too deep": at("modules", ".".join("a" * 100), value={"class": "X"}),
    "a parameter in no module": at("parameters", "no.weight", value=FLOATS),
    "a parameter that is a method": at("parameters", "forward", value=FLOATS),
    "a parameter without a name": at("parameters", "embed.", value=FLOATS),
    "a parameter in a module's place": at("parameters", "embed", value=FLOATS),
    "a parameter without a shape": at("parameters", "embed.weight", value={"dtype": "float32"}),
    "a parameter that is a list": at("parameters", "embed.weight", value=[]),
    "a shape below zero": at("parameters", "embed.weight", "shape", value=[-1, 4]),
    "a shape of fractions": at("parameters", "embed.weight", "shape", value=[1.5]),
    "a shape of truths": at("parameters", "embed.weight", "shape", value=[True]),
    "a shape of 2^60": at("parameters", "embed.weight", "shape", value=[1 << 60]),
    "a shape of 2^30 by 2^30": at("parameters", "embed.weight", "shape", value=[1 << 30, 1 << 30]),
    "a shape of many": at("parameters", "embed.weight", "shape", value=[1] * 100),
    "a shape of zeros and 2^200": at("parameters", "embed.weight", "shape", value=[1 << 200, 0]),
    "a type by a walk": at("parameters", "embed.weight", "dtype", value="float32.__class__"),
    "a type that is a module": at("parameters", "embed.weight", "dtype", value="nn"),
    "a type that is a list": at("parameters", "embed.weight", "dtype", value=["float32"]),
    "a buffer without values": at("buffers", "other", value={"dtype": "int64", "shape": [5], "persistent": False}),
    "a buffer of another shape": at("buffers", "places", "shape", value=[6]),
    "a buffer of another type": at("buffers", "places", "dtype", value="int32"),
    "a tie to nothing": at("ties", "head.weight", value="nothing.weight"),
    "a tie to itself": at("ties", value={"head.weight": "head.weight"}),
    "ties in a circle": at("ties", value={"head.weight": "head.bias", "head.bias": "head.weight"}),
    "a tie to a list": at("ties", "head.weight", value=["embed.weight"]),
    "a tie into no module": at("ties", "no.where.weight", value="embed.weight"),
    "absent tensors that are a number": at("modules", "embed", "absent", value={"parameters": 1}),
    "no arguments": at("arguments", value=None),
    "arguments that are texts": at("arguments", value=["x"]),
    "an argument of no kind": at("arguments", value=[{"name": "x", "kind": "odd", "default": False}]),
    "an argument without a name": at("arguments", value=[{"name": "", "kind": "positional", "default": False}]),
    "an argument that is code": at("arguments", value=[{"name": "x()", "kind": "positional", "default": False}]),
    "an argument twice": at("arguments", value=[{"name": "x", "kind": "positional", "default": False}] * 2),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_describes_no_network_is_refused(described: Json, name: str) -> None:
    DAMAGED[name](described)
    with pytest.raises(InputError):
        built(described)


@pytest.mark.parametrize("other", [None, [], "x", 3, {}, {"modules": {}}])
def test_what_is_no_description_is_refused(other: Json) -> None:
    with pytest.raises(InputError, match="describes no network"):
        built(other)


def test_many_modules_take_bounded_time(described: Json) -> None:
    for number in range(5000):
        described["modules"][f"m{number}"] = {"class": "Linear", "torch": True, "attributes": {}, "absent": {}}
    assert len(list(built(described).modules())) > 5000
