"""Graphs of a network and its loss, made once a process and compared with the live network."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter as clock
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fromage_cli.bundle.outputs_loss import OfOutputs
from fromage_cli.problem.conditions.evaluation import Conditions, Mode
from fromage_cli.problem.conditions.kept_state import KeptState
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import map_tensors, named_tensors
from fromage_cli.problem.graphs.encoding import NotExportable, arranged
from fromage_cli.problem.graphs.exporting import Exported, export
from fromage_cli.problem.graphs.network import attributes_of, build_network, describe_network
from fromage_cli.problem.graphs.program import Program
from fromage_cli.problem.graphs.reading import program_of
from fromage_cli.problem.losses.call import inputs_and_targets
from fromage_cli.problem.losses.loss_terms import Loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss
from fromage_cli.problem.losses.summed_loss import users_function

LOG = logging.getLogger("fromage_cli.bundle")
MOST_APART = 100.0
"""Rounding errors by which loss and gradients of a graph may differ from those of the network."""
MOST_KEPT = 4
"""Graphs of one network that are kept for later bundles."""
LEAST_PART = 4
"""Rows from which on a part of the batch is compared too: BatchNorm needs two rows in each part."""


@dataclass(frozen=True)
class Graphs:
    """What describes a network and its loss, without the values of its weights."""

    described: dict[str, Any]
    """In JSON's own types: the network's modules and tensors, and the graph of each mode."""
    constants: dict[str, Tensor]
    fixed: str = ""
    """Why the graphs hold for this number of rows alone; empty where they hold for any."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Modes without a graph, and why."""
    losses: dict[str, float] = field(default_factory=dict)
    """The loss of the batch in each mode, at the first seed; empty where the graphs were not compared just now."""


_MADE: WeakKeyDictionary[nn.Module, dict[str, Graphs | NotExportable]] = WeakKeyDictionary()
"""By network, and by what else they depend on."""


def graphs_of(network: nn.Module, loss: Loss, batch: Batch) -> Graphs:
    """The graphs of a network and its loss in each mode; those of an earlier call where nothing has changed.

    The loss is a part of them where it is the user's function. Raises NotExportable where no mode has one, or where one
    gives another loss or gradient than the network.
    """
    key = fingerprint(network, loss, batch)
    made = _MADE.setdefault(network, {})
    earlier = made.get(key)
    if earlier is None or (isinstance(earlier, Graphs) and earlier.fixed and earlier.described["rows"] != batch.size):
        begin = clock()
        try:
            new = _made(network, loss, batch)
        except NotExportable as error:
            made[key] = error
            raise
        LOG.info(
            "made the graphs of %s in %.1f s; later bundles use them again", type(network).__name__, clock() - begin
        )
        while len(made) >= MOST_KEPT:
            del made[next(iter(made))]
        made[key] = replace(new, losses={})  # later weights have other losses
        return new
    if isinstance(earlier, NotExportable):
        raise earlier
    return earlier


def fingerprint(network: nn.Module, loss: Loss, batch: Batch) -> str:
    """A hash of what graphs depend on: structure, shapes, types, settings of modules and the code of the loss.

    Values of tensors do not count, nor do whole numbers in attributes, which are often counters.
    """
    digest = hashlib.sha256()
    for name, module in network.named_modules(remove_duplicate=False):
        settings = {key: value for key, value in attributes_of(module).items() if type(value) is not int}  # no counters
        digest.update(f"{name} {type(module).__qualname__} {module.extra_repr()} {settings}".encode())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
    shapes = [(name, tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in named_tensors(batch.data)]
    digest.update(f"{loss.name} {_identity(users_function(loss))} {shapes}".encode())
    return digest.hexdigest()


def _identity(function: Any) -> str:
    """What tells one function from another: its code and what it holds, since a loop may make it anew each time."""
    if isinstance(function, partial):
        return " ".join(map(_identity, (function.func, *function.args, *function.keywords.items())))
    if isinstance(function, OfOutputs):
        return _identity(function.criterion)
    if isinstance(function, FunctionType):
        held = [*(cell.cell_contents for cell in function.__closure__ or ()), *(function.__defaults__ or ())]
        return " ".join([function.__module__, str(hash(function.__code__)), *map(_identity, held)])
    if isinstance(function, tuple | list):
        return " ".join(map(_identity, function))
    if function is None or isinstance(function, bool | int | float | str):
        return repr(function)
    settings = f" {attributes_of(function)}" if isinstance(function, nn.Module) else ""
    return f"{type(function).__qualname__} {id(function)}{settings}"


def _made(network: nn.Module, loss: Loss, batch: Batch) -> Graphs:
    function = users_function(loss)
    if function is None:
        positional, named, _ = inputs_and_targets(network, batch)
        given: Any = (tuple(positional), dict(named))
        found: list[Tensor] = []
        listed = [arranged(each, found) for each in positional]
        arguments: Any = listed, {key: arranged(each, found) for key, each in named.items()}
    else:
        given, arguments = batch.data, None

    def call(model: nn.Module, *tensors: Tensor) -> Any:
        left = iter(tensors)
        again = map_tensors(given, lambda _: next(left))
        return model(*again[0], **again[1]) if function is None else function(model, again)  # type: ignore[operator]

    on_meta = any(parameter.is_meta for parameter in network.parameters())
    tensors = [tensor.to("meta") if on_meta else tensor for _, tensor in named_tensors(given)]
    conditions = Conditions(network, function)
    if not on_meta:
        with conditions.comparable("eval", 0):
            conditions.without_graph(
                partial(loss, network, batch)
            )  # what the user's own code cannot do is said in its own words
    modes: list[Mode] = ["eval", "train"]
    if any(isinstance(module, _NormBase | nn.RNNBase) for module in network.modules()):
        modes.insert(1, "auto")
    exported: dict[str, Exported] = {}
    constants: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for mode in modes:
        kept = KeptState(conditions.stateful)
        try:
            with conditions.steady(mode), torch.enable_grad():
                exported[mode] = export(network, call, tensors, arguments, constants)
            constants |= exported[mode].constants
        except NotExportable as error:
            left_out[mode] = error.message
        finally:
            kept.put_back()
    if not exported:
        raise NotExportable(next(iter(left_out.values())), "")
    weights = [parameter for parameter in network.parameters() if parameter.is_floating_point()]
    described = {
        "network": describe_network(network),
        "graphs": {mode: one.graph for mode, one in exported.items()},
        "with_loss": function is not None,
        "dtype": str(weights[0].dtype if weights else torch.float32).removeprefix("torch."),
        "inputs": [
            {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape[1:])} for tensor in tensors
        ],
        "rows": batch.size if any(one.fixed for one in exported.values()) else None,
    }
    fixed = next((one.fixed for one in exported.values() if one.fixed), "")
    described = json.loads(json.dumps(described))  # as it is read again
    made = Graphs(described, constants, fixed, left_out)
    if on_meta:
        return made  # its values are elsewhere, so that nothing can be compared
    return replace(made, losses={mode: _compared(network, loss, batch, made, mode) for mode in exported})


def _compared(network: nn.Module, loss: Loss, batch: Batch, made: Graphs, mode: str) -> float:
    """The loss of the network in a mode, once the graph has given the same, and the same gradients.

    Raises NotExportable where it did not.
    """
    described, fixed = made.described, bool(made.fixed)
    graph = live_network(network, described, made.constants)
    same = FunctionLoss(loss.name, graph.program.loss_of) if described["with_loss"] else loss
    parts = [batch] if fixed or batch.size < LEAST_PART else [batch, batch.rows(0, batch.size // 2)]
    first = None
    for seed, part in enumerate(parts):
        expected, gradients = _evaluated(network, loss, part, mode, seed)
        found, others = _evaluated(graph.network, same, part, mode, seed)
        unit = MOST_APART * torch.finfo(getattr(torch, described["dtype"])).eps
        _require_near("loss", abs(found - expected), max(abs(expected), unit), unit, mode)
        largest = max((float(gradient.norm()) for gradient in gradients.values()), default=0.0)
        for name, gradient in gradients.items():
            apart = float((others.pop(name) - gradient).norm()) if name in others else float("inf")
            _require_near(f"gradient of {name}", apart, max(float(gradient.norm()), 1e-3 * largest), unit, mode)
        if others:
            raise NotExportable(f"The graph has a gradient for {next(iter(others))}, and the network has none.", "")
        first = expected if first is None else first
    assert first is not None
    return first


def _require_near(what: str, apart: float, size: float, unit: float, mode: str) -> None:
    if not apart <= unit * size:
        raise NotExportable(
            f"The graph that torch.export made is not the network: in mode {mode} its {what} differs by "
            f"{apart / size if size else apart:.2g}.",
            "",
        )


@dataclass(frozen=True)
class LiveGraph:
    """A network that runs the graphs on the weights of the live one."""

    network: nn.Module
    program: Program


def live_network(network: nn.Module, described: Mapping[str, Any], constants: Mapping[str, Tensor]) -> LiveGraph:
    """The graphs on the live network's own tensors, which are shared and not copied."""
    program = program_of(described, constants, "the graph")
    buffers = dict(network.named_buffers(remove_duplicate=False))
    built = build_network(described["network"], program, buffers, "the graph")
    modules = dict(built.named_modules(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        shared = made.setdefault(id(parameter), nn.Parameter(parameter.detach(), parameter.requires_grad))
        modules[owner]._parameters[leaf] = shared
    for name, buffer in buffers.items():
        owner, _, leaf = name.rpartition(".")
        modules[owner]._buffers[leaf] = buffer
    return LiveGraph(built, program)


def _evaluated(network: nn.Module, loss: Loss, batch: Batch, mode: Any, seed: int) -> tuple[float, dict[str, Tensor]]:
    """The mean loss and its gradients by name; nothing is left on the network."""
    trained = [(name, each) for name, each in network.named_parameters() if each.requires_grad]
    conditions = Conditions(network, users_function(loss))
    with _untouched([each for _, each in trained]), torch.enable_grad():
        with conditions.comparable(mode, batch.seed(seed)):
            terms = loss(network, batch)
            total = terms.total / (terms.count or 1.0)
            gradients = torch.autograd.grad(total, [each for _, each in trained], allow_unused=True)
        found = float(total.detach())
    return found, {
        name: gradient.detach() for (name, _), gradient in zip(trained, gradients, strict=True) if gradient is not None
    }


@contextmanager
def _untouched(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients and hooks of parameters are away within the block, and back behind it."""
    kept = [(each, each.grad, each._backward_hooks) for each in parameters]
    for each in parameters:
        each.grad, each._backward_hooks = None, None
    try:
        yield
    finally:
        for each, gradient, hooks in kept:
            each.grad, each._backward_hooks = gradient, hooks
