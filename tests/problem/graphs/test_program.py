"""Running a graph: what it is given is checked, and its modules answer as those of the network."""

import faulthandler
import json
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import FromageError, MismatchError, ResourceError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.graphs.allowance import Allowance
from fromage_cli.problem.graphs.exporting import export
from fromage_cli.problem.graphs.graph import read_graph
from fromage_cli.problem.graphs.network import build_network, describe_network
from fromage_cli.problem.graphs.program import Program
from fromage_cli.problem.losses.call import forward

Json = Any


def value(name: str) -> Json:
    return {"value": name}


def step(name: str, operator: str, *arguments: Json, **named: Json) -> Json:
    return {"name": name, "operator": operator, "arguments": [*arguments], "named": named}


def of_steps(*steps: Json, rows: int | None = None, result: str = "") -> tuple[nn.Module, Program]:
    """A network of one linear layer that computes these steps from its input `x`, of 4 columns."""
    body = {"module": "", "arguments": [value("x")], "named": {}, "steps": list(steps)}
    body["result"] = value(result or (steps[-1]["name"] if steps else "x"))
    whole = {"arguments": [value("x")], "named": {}, "steps": [body], "result": body["result"]}
    graphs = {"eval": read_graph(json.loads(json.dumps({"inputs": ["x"], "body": whole})), "the graph")}
    program = Program(graphs, torch.float32, {}, aliases={}, inputs=[(4,)], rows=rows)
    network = nn.Linear(4, 4)
    described = json.loads(json.dumps(describe_network(network)))
    built = build_network(described, program, {}, "the file").to_empty(device="cpu")
    built.load_state_dict(network.state_dict())
    return built.eval(), program


def run(network: nn.Module, rows: Tensor | None = None) -> Any:
    """As a command runs it."""
    rows = torch.ones(3, 4) if rows is None else rows
    return forward(network, as_batch({"input": rows}, "test data"), (rows,), {})


def test_steps_are_run_in_their_order() -> None:
    network, _ = of_steps(step("a", "aten.mul.Tensor", value("x"), 2.0), step("b", "aten.add.Tensor", value("a"), 1.0))
    assert torch.equal(run(network), torch.full((3, 4), 3.0))


def test_rows_are_those_of_the_batch() -> None:
    network, _ = of_steps(step("a", "aten.zeros.default", [{"rows": "all"}, 2], device={"device": "weights"}))
    assert [run(network, torch.ones(size, 4)).shape for size in (1, 5)] == [(1, 2), (5, 2)]


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 1), (3,)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    network, _ = of_steps(step("a", "aten.abs.default", value("x")))
    with pytest.raises(MismatchError, match="rows of shape"):
        run(network, torch.ones(shape))


def test_a_graph_of_some_rows_takes_no_others() -> None:
    network, _ = of_steps(step("a", "aten.abs.default", value("x")), rows=3)
    run(network)
    with pytest.raises(MismatchError, match="3 rows alone, and 4 were given"):
        run(network, torch.ones(4, 4))


def test_a_loss_of_another_number_of_tensors_is_refused() -> None:
    network, program = of_steps(step("a", "aten.sum.default", value("x")))
    assert float(program.loss_of(network, {"x": torch.ones(3, 4)})) == 12.0
    with pytest.raises(MismatchError, match="1 tensors, and this one has 2"):
        program.loss_of(network, {"x": torch.ones(3, 4), "y": torch.ones(3)})


WRONG: dict[str, Json] = {
    "a size beyond 63 bits": step("a", "aten.zeros.default", [1 << 40, 1 << 40]),
    "too few arguments": step("a", "aten.add.Tensor", value("x")),
    "a wrong type": step("a", "aten.matmul.default", value("x"), 3),
    "shapes that do not fit": step("a", "aten.matmul.default", value("x"), value("x")),
    "a division by zero": step("a", "operator.floordiv", 1, 0),
    "a text for a number": step("a", "operator.add", 1, "a"),
    "an item that is not there": step("a", "operator.getitem", [1], 5),
    "a target out of range": step("a", "aten.embedding.default", value("x"), {"tuple": []}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_torch_refuses_is_a_mismatch(wrong: Json) -> None:
    network, _ = of_steps(wrong)
    with pytest.raises(MismatchError, match="The model failed on the batch"):
        run(network)


LARGE: dict[str, list[Json]] = {
    "a shape of 2^44": [step("a", "aten.ones.default", [1 << 44])],
    "a shape of 2^30 by 2^30": [step("a", "aten.zeros.default", [1 << 30, 1 << 30])],
    "a range": [step("a", "aten.arange.default", 1 << 44)],
    "a range of small steps": [step("a", "aten.arange.start_step", 0, 1.0, 1e-17)],
    "points": [step("a", "aten.linspace.default", 0, 1, 1 << 45)],
    "a permutation": [step("a", "aten.randperm.default", 1 << 44)],
    "an identity": [step("a", "aten.eye.default", 1 << 30)],
    "padding": [step("a", "aten.constant_pad_nd.default", value("x"), [1 << 44, 1 << 44])],
    "repeats": [step("a", "aten.repeat.default", value("x"), [1 << 30, 1 << 14])],
    "an expansion": [step("a", "aten.ones.default", [1]), step("b", "aten.expand.default", value("a"), [1 << 44])],
    "strides": [step("a", "aten.as_strided.default", value("x"), [1 << 44], [0])],
    "a size from a tensor": [
        step("a", "aten.full.default", [1], 1 << 44, dtype={"dtype": "int64"}),
        step("b", "aten.item.default", value("a")),
        step("c", "aten.ones.default", [value("b")]),
    ],
    "classes": [
        step("a", "aten.zeros.default", [4], dtype={"dtype": "int64"}),
        step("b", "aten.one_hot.default", value("a"), 1 << 44),
    ],
}


@pytest.mark.parametrize("steps", LARGE.values(), ids=LARGE)
def test_what_would_fill_the_memory_is_refused_before(steps: list[Json]) -> None:
    network, _ = of_steps(*steps)
    with pytest.raises(ResourceError, match=r"would make .* bytes"):
        run(network)


def test_doubling_ends_before_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromage_cli.problem.graphs.allowance.available_memory", lambda: 1 << 28)
    doubled = [step(f"a{n + 1}", "aten.cat.default", [value(f"a{n}"), value(f"a{n}")]) for n in range(60)]
    network, _ = of_steps(step("a0", "aten.ones.default", [1024]), *doubled)
    with pytest.raises(ResourceError, match=r"aten\.cat\.default would make"):
        run(network)


def test_many_small_results_end_before_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromage_cli.problem.graphs.allowance.available_memory", lambda: 1 << 26)
    made = [step(f"a{n}", "aten.empty.memory_format", [1 << 23]) for n in range(12)]  # 32 MB each, never written
    used = [step(f"b{n}", "aten.size.int", value(f"a{n}"), 0) for n in range(12)]
    network, _ = of_steps(*made, *used, result="x")
    with pytest.raises(ResourceError):
        run(network)


def test_sizes_are_looked_at_in_the_first_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = of_steps(step("a", "aten.abs.default", value("x")), step("b", "aten.neg.default", value("a")))
    looked: list[str] = []
    monkeypatch.setattr(Allowance, "check", lambda _self, name, *_: looked.append(name))
    for _ in range(3):
        run(network)
    assert looked == ["aten.abs.default", "aten.neg.default"]


FROM_VALUES: dict[str, list[Json]] = {
    "repeats": [step("b", "aten.repeat_interleave.Tensor", value("a"))],
    "counts": [step("b", "aten.bincount.default", value("a"))],
    "classes": [step("b", "aten.one_hot.default", value("a"))],
}


@pytest.mark.parametrize("steps", FROM_VALUES.values(), ids=FROM_VALUES)
def test_a_size_that_depends_on_values_is_refused(steps: list[Json]) -> None:
    full = step("a", "aten.full.default", [2], 1 << 24, dtype={"dtype": "int64"})  # 128 MB and more
    with pytest.raises(FromageError):
        run(of_steps(full, *steps)[0])


NUMBERS: dict[str, list[Json]] = {
    "a power": [step("a", "operator.pow", 10, 1 << 20)],
    "squares of squares": [
        step("a0", "operator.add", 1 << 40, 1),
        *(step(f"a{n + 1}", "operator.mul", value(f"a{n}"), value(f"a{n}")) for n in range(14)),
    ],
    "a list that doubles": [
        step("a0", "operator.add", [1], [1]),
        *(step(f"a{n + 1}", "operator.add", value(f"a{n}"), value(f"a{n}")) for n in range(16)),
    ],
    "a list many times": [step("a", "operator.mul", [1], 1 << 20)],
    "a text many times": [step("a", "operator.mul", "ab", 1 << 20)],
    "a text from a form": [step("a", "operator.mod", "%1000000d", 5)],
}


@pytest.mark.parametrize("steps", NUMBERS.values(), ids=NUMBERS)
def test_numbers_and_lists_do_not_grow_without_end(steps: list[Json]) -> None:
    """They are sizes: 48 bits hold each, and a list is as long as there are dimensions or results."""
    network, _ = of_steps(*steps, result="x")
    with pytest.raises((MismatchError, ResourceError)):
        run(network)


def exit_code_of(network: nn.Module) -> int:
    """How a process of its own ends that runs the network: below zero where a signal ends it."""
    process = os.fork()
    if process == 0:
        faulthandler.disable()
        try:
            run(network)
        except FromageError as error:
            os._exit(error.exit_code)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def zeros(name: str, *shape: int) -> Json:
    return step(name, "aten.zeros.default", [*shape])


LSTM = [[value("h"), value("c")], [value("w"), value("u"), value("b"), value("b")]]
CRASHING: dict[str, list[Json]] = {
    "a recurrence of wrong shapes": [
        *(zeros("y", 5, 0, 5, 3), zeros("h", 5, 0, 5, 1), zeros("c", 0, 0, 3)),
        *(zeros("w", 1, 5), zeros("u", 0, 0, 0, 1), zeros("b", 0, 1)),
        step("a", "aten.lstm.input", value("y"), LSTM[0], LSTM[1][:3], False, 3, 0.0, True, True, True),
    ],
    "a norm of nothing": [
        *(zeros("v", 0, 1), zeros("g")),
        step("a", "aten._weight_norm.default", value("v"), value("g"), 0),
    ],
}


@pytest.mark.parametrize("steps", CRASHING.values(), ids=CRASHING)
def test_no_shape_ends_the_process(steps: list[Json]) -> None:
    assert exit_code_of(of_steps(*steps, result="x")[0]) == MismatchError.exit_code


BY_NUMBER = {
    "a type": step("a", "aten.zeros.default", [2], dtype=7),
    "a type by position": step("a", "aten.to.dtype", value("x"), 7),
    "a layout": step("a", "aten.zeros.default", [2], layout=1),
    "a device by name": step("a", "aten.zeros.default", [2], device="meta"),
}


@pytest.mark.parametrize("wrong", BY_NUMBER.values(), ids=BY_NUMBER)
def test_types_and_devices_are_those_of_the_lists_alone(wrong: Json) -> None:
    with pytest.raises(FromageError):
        run(of_steps(wrong, result="x")[0])


def test_a_recurrence_reads_no_other_memory() -> None:
    network, _ = of_steps(
        *(zeros("y", 6, 5, 4), zeros("h", 1, 6, 3), zeros("c", 1, 6, 3)),
        *(zeros("w", 2, 1), zeros("u", 12, 3), zeros("b", 12)),
        step("a", "aten.lstm.input", value("y"), *LSTM, True, 1, 0.0, False, False, True),
        result="x",
    )
    with pytest.raises(MismatchError):
        run(network)


@pytest.fixture(scope="module")
def stacked() -> tuple[nn.Module, nn.Module]:
    """A network of lists of modules, and what was built from its graph."""
    torch.manual_seed(0)
    live = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)).eval()
    found = export(live, lambda model, x: model(x), [torch.randn(3, 4)])
    graph = read_graph(json.loads(json.dumps(found.graph)), "the graph")
    program = Program({"eval": graph}, torch.float32, {}, aliases={}, inputs=[(4,)])
    built = build_network(json.loads(json.dumps(describe_network(live))), program, {}, "the file")
    built.to_empty(device="cpu").load_state_dict(live.state_dict())
    return live, built.eval()


class Attending(nn.Module):
    """Attention that takes the probability of a layer which it never calls, beside one that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.held = nn.Dropout(0.25), nn.Dropout(0.25)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        parts = (x @ self.weight)[:, None]
        probability = self.held.p if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(parts, parts, parts, dropout_p=probability)
        return self.called(mixed[:, 0])


@pytest.mark.parametrize("name", ["held", "called"])
def test_a_probability_that_is_moved_moves_the_layer_that_holds_it(name: str) -> None:
    live = Attending().train()
    found = export(live, lambda model, x: model(x), [torch.randn(3, 5, 4)])
    graph = read_graph(json.loads(json.dumps(found.graph)), "the graph")
    program = Program({"train": graph}, torch.float32, {}, aliases={}, inputs=[(5, 4)])
    built = build_network(json.loads(json.dumps(describe_network(live))), program, {}, "the file")
    built.to_empty(device="cpu").load_state_dict(live.state_dict())
    x = torch.randn(3, 5, 4)
    before = []
    for probability in (0.25, 0.5):
        outputs = []
        for network in (live, built.train()):
            getattr(network, name).p = probability
            torch.manual_seed(7)
            outputs.append(network(x))
        assert torch.equal(*outputs)
        before.append(outputs[0])
    assert not torch.equal(*before)


@pytest.mark.parametrize("part", ["", "0", "0.0", "0.1", "1"])
def test_a_module_is_called_by_itself(stacked: tuple[nn.Module, nn.Module], part: str) -> None:
    live, built = (each.get_submodule(part) for each in stacked)
    for rows in (3, 1, 6):
        x = torch.randn(rows, 4)
        assert torch.equal(live(x), built(x))


def test_a_weight_that_is_replaced_is_used(stacked: tuple[nn.Module, nn.Module]) -> None:
    x = torch.randn(3, 4)
    for change in (lambda module: nn.Parameter(module.weight * 2), lambda module: nn.Parameter(module.weight - 1)):
        outputs: list[Tensor] = []
        for network in stacked:
            layer = network[1]
            before = layer.weight
            layer.weight = change(layer)
            outputs.append(network(x))
            layer.weight = before
        assert torch.equal(*outputs)


def test_a_module_that_is_called_twice_is_not_called_by_itself() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    live = Twice().eval()
    found = export(live, lambda model, x: model(x), [torch.randn(3, 4)])
    program = Program({"eval": read_graph(found.graph, "the graph")}, torch.float32, {}, aliases={}, inputs=[(4,)])
    built = build_network(describe_network(live), program, {}, "the file").to_empty(device="cpu").eval()
    with pytest.raises(MismatchError, match="by itself"):
        built.layer(torch.ones(3, 4))
