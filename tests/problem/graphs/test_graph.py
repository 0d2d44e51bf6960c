"""What is no graph is refused before anything of it is run."""

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from fromage_cli.errors import FromageError, InputError, UnsafeError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.graphs.exporting import export
from fromage_cli.problem.graphs.graph import read_graph
from fromage_cli.problem.graphs.network import build_network, describe_network
from fromage_cli.problem.graphs.program import Program
from fromage_cli.problem.losses.call import forward

Json = Any


class Network(nn.Module):
    """Has what a graph can hold: a tie, a constant, a condition, buffers, a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.last.weight = self.first.weight
        self.drop = nn.Dropout(0.2)
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            mean = self.first(x).mean(0)
        hidden = self.norm(self.first(x) - mean).view(-1, 3).to(torch.float32)[:, :3]
        return {"out": self.last(self.drop(hidden)) + self.shift * torch.arange(3.0)}


@pytest.fixture(scope="module")
def whole() -> Json:
    """A network and its graph as they stand in a file."""
    torch.manual_seed(0)
    network = Network().eval()
    found = export(network, lambda model, x: model(x), [torch.randn(4, 3)])
    described = {"graph": found.graph, "network": describe_network(network)}
    return json.loads(json.dumps(described)) | {
        "buffers": dict(network.named_buffers()),
        "constants": found.constants,
    }


def run(described: Json, whole: Json) -> Any:
    """Reads a network and its graph, and runs it on four rows as a command does."""
    graph = read_graph(described.get("graph"), "the graph")
    network = described.get("network")
    ties = network.get("ties") if isinstance(network, dict) else None
    aliases = {str(alias): str(name) for alias, name in ties.items()} if isinstance(ties, dict) else {}
    program = Program({"eval": graph}, torch.float32, whole["constants"], aliases=aliases, inputs=[(3,)])
    built = build_network(network, program, whole["buffers"], "the network").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            tensor.fill_(1)
    rows = torch.ones(4, 3)
    return forward(built.eval(), as_batch({"x": rows}, "test data"), (rows,), {})


def fresh(whole: Json) -> Json:
    return copy.deepcopy({"graph": whole["graph"], "network": whole["network"]})


def test_the_graph_itself_runs(whole: Json) -> None:
    assert run(fresh(whole), whole)["out"].shape == (4, 3)


def first_step(graph: Json) -> Json:
    """The first operator's step."""
    step = graph["body"]
    while "operator" not in step:
        step = step["steps"][0]
    return step


def steps_of(graph: Json) -> list[Json]:
    return graph["body"]["steps"]


OUTSIDE = [
    *("aten.from_file.default", "aten.set_.source_Storage", "aten.resize_.default", "aten.add.out", "aten.linear"),
    *("aten.linear.default.__globals__", "aten.linear.__class__", "aten.__class__.__init__", "aten._foreach_add.List"),
    *("torch.ops.aten.linear.default", "torch.load", "os.system", "__import__", "builtins.eval", "builtins.getattr"),
    *("operator.attrgetter", "operator.methodcaller", "operator.call", "operator.setitem", "math.__loader__"),
    *("aten.linear.default\n", " aten.linear.default", "aten..", "", "aten.linear_.default", "prims.add.default"),
    *("_PLAIN", "aten.sparse_coo_tensor.default", "aten.to_mkldnn.default", "profiler._record_function_enter.default"),
]


@pytest.mark.parametrize("operator", OUTSIDE)
def test_an_operator_outside_of_the_list_is_refused(whole: Json, operator: str) -> None:
    found = fresh(whole)["graph"]
    first_step(found)["operator"] = operator
    with pytest.raises(UnsafeError, match="not in the list of operators"):
        read_graph(found, "the graph")


def deep(levels: int, around: Callable[[Json], Json], core: Json = 0) -> Json:
    for _ in range(levels):
        core = around(core)
    return core


NESTED = {"module": None, "arguments": [], "named": {}, "result": None}
OF_ITSELF = {"name": "y", "operator": "aten.abs.default", "arguments": [{"value": "y"}], "named": {}}
NO_ARGUMENTS: dict[str, Json] = {
    "a value that was not made": {"value": "later"},
    "a module's attribute": {"attribute": "weight"},
    "a type by a walk": {"dtype": "float32.__class__"},
    "no type": {"dtype": "Tensor"},
    "a type that is a function": {"dtype": "load"},
    "a layout by name": {"layout": "sparse_coo"},
    "a memory format": {"memory_format": "__class__"},
    "a number that is none": {"number": "1e400"},
    "2^60": 1 << 60,
    "-2^200": -(1 << 200),
    "a slice of two": {"slice": [0, 1]},
    "two kinds": {"value": "x", "dtype": "float32"},
    "nothing": {},
    "a parameter without a name": {"parameter": 3},
    "a value without a name": {"value": ["x"]},
    "a complex number of texts": {"complex": ["a", "b"]},
    "a complex number of lists": {"complex": [[1], {}]},
    "lists without end": deep(200, lambda core: [core]),
    "tuples without end": deep(200, lambda core: {"tuple": [core]}),
    "dicts without end": deep(200, lambda core: {"dict": {"a": core}}),
}


@pytest.mark.parametrize(
    "argument",
    [pytest.param(each, id=name) for name, each in NO_ARGUMENTS.items()],
)
@pytest.mark.parametrize("place", ["arguments", "named", "result"])
def test_an_argument_that_is_not_known_is_refused(whole: Json, argument: Json, place: str) -> None:
    found = fresh(whole)["graph"]
    step = first_step(found) if place != "result" else found["body"]
    step[place] = {"arguments": [argument], "named": {"input": argument}, "result": argument}[place]
    with pytest.raises(InputError, match="is not a graph"):
        read_graph(found, "the graph")


def in_body(**parts: Json) -> Callable[[Json], Json]:
    """A change of the outermost block."""
    return lambda graph: graph | {"body": graph["body"] | parts}


NO_GRAPHS: dict[str, Callable[[Json], Json]] = {
    "null": lambda graph: None,
    "a list": lambda graph: [graph],
    "a text": lambda graph: "graph",
    "no inputs": lambda graph: {"body": graph["body"]},
    "no body": lambda graph: {"inputs": graph["inputs"]},
    "inputs that are numbers": lambda graph: graph | {"inputs": [1]},
    "inputs that are lists": lambda graph: graph | {"inputs": [["x"]]},
    "inputs twice": lambda graph: graph | {"inputs": graph["inputs"] * 2},
    "a body that is a list": lambda graph: graph | {"body": []},
    "steps that are none": in_body(steps={}),
    "a step that is a text": in_body(steps=["x"]),
    "a step without a name": in_body(steps=[{"operator": "aten.abs.default"}]),
    "a module without a name": in_body(module=5),
    "an unknown condition": in_body(condition={"device": "cuda"}),
    "two conditions": in_body(condition={"grad": True, "autocast": None}),
    "a condition of a type": in_body(condition={"autocast": "float64"}),
    "a condition that is a list": in_body(condition={"autocast": ["float16"]}),
    "blocks without end": in_body(steps=[deep(300, lambda core: NESTED | {"steps": [core]}, NESTED | {"steps": []})]),
    "a value of an inner block": in_body(result={"value": "linear"}),
    "a value that is used before it is made": in_body(steps=[OF_ITSELF]),
}


@pytest.mark.parametrize("change", NO_GRAPHS.values(), ids=NO_GRAPHS)
def test_what_is_no_graph_is_refused(whole: Json, change: Callable[[Json], Json]) -> None:
    with pytest.raises(InputError):
        read_graph(change(fresh(whole)["graph"]), "the graph")


def test_too_many_steps_are_refused_soon(whole: Json) -> None:
    found = fresh(whole)["graph"]
    step = {"name": "x", "operator": "aten.abs.default", "arguments": [1.0], "named": {}}
    steps_of(found).extend([step] * 300_000)
    began = time.perf_counter()
    with pytest.raises(InputError, match="more than 200000 steps"):
        read_graph(found, "the graph")
    assert time.perf_counter() - began < 20.0


def test_a_tensor_that_the_network_lacks_is_refused(whole: Json) -> None:
    for kind in ("parameter", "buffer", "constant"):
        for name in ("none.weight", "first.nothing", "first.forward", "", ".", "first.weight.data"):
            found = fresh(whole)
            first_step(found["graph"])["arguments"][1] = {kind: name}
            with pytest.raises(InputError, match="not there"):
                run(found, whole)


def test_a_module_that_the_network_lacks_is_refused(whole: Json) -> None:
    found = fresh(whole)
    steps_of(found["graph"])[0]["module"] = "first.weight"
    with pytest.raises(InputError, match="lacks"):
        run(found, whole)


WORDS = [
    *(None, True, False, 0, 1, -1, 3, 7, 0.5, 1e30, "", "x", "first", "first.weight", "float64", "eval"),
    *([], {}, [1], [[]], {"value": "linear"}, {"value": "x"}, {"parameter": "first.weight"}, {"rows": "all"}),
    *({"dtype": "int8"}, {"number": "nan"}, {"device": ""}, {"tuple": []}, {"slice": [None, None, None]}),
    *("aten.abs.default", "aten.add_.Tensor", "aten.sum.default", "operator.getitem", "aten.zeros.default"),
]


def places_in(value: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(place for key in keys for place in places_in(value[key], (*path, key)))]


def holder_of(document: Json, path: tuple[Any, ...]) -> Json:
    for key in path[:-1]:
        document = document[key]
    return document


def has_place(document: Json, path: tuple[Any, ...]) -> bool:
    try:
        holder_of(document, path)[path[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, float, float]]:
    """What is done, at which of all places, and with which word or other place."""
    kinds = st.sampled_from(["put", "remove", "copy", "swap"])
    return draw(st.lists(st.tuples(kinds, st.floats(0, 0.999), st.floats(0, 0.999)), min_size=1, max_size=3))


def changed(document: Json, made: list[tuple[str, float, float]]) -> None:
    for kind, where, what in made:
        places = places_in(document)[3:]
        path, other = places[int(where * len(places))], places[int(what * len(places))]
        holder = holder_of(document, path)
        if kind == "remove":
            del holder[path[-1]]
        elif kind == "put":
            holder[path[-1]] = copy.deepcopy(WORDS[int(what * len(WORDS))])
        elif kind == "copy":
            holder[path[-1]] = copy.deepcopy(holder_of(document, other)[other[-1]])
        else:
            first, second = (copy.deepcopy(holder_of(document, each)[each[-1]]) for each in (path, other))
            holder[path[-1]] = second
            if has_place(document, other):
                holder_of(document, other)[other[-1]] = first


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(made=[("put", 0.9375, 0.5)])
@given(made=changes())
def test_what_was_changed_anywhere_is_read_or_refused(whole: Json, made: list[tuple[str, float, float]]) -> None:
    found = fresh(whole)
    changed(found, made)
    try:
        output = run(found, whole)
    except FromageError as error:
        assert error.message
    else:
        assert not isinstance(output, type)
