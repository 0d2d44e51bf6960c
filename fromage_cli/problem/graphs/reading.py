"""Programs from what a file describes, and a bundle as a network, a batch and a loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.checkpoints.formats.bundle import BATCH, CONSTANTS, DAMAGED, GRAPHS, Bundle
from fromage_cli.checkpoints.formats.safetensors_file import find_tensor, read_header
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.checkpoints.storage.json_file import read_object
from fromage_cli.errors import InputError, MismatchError
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.graphs.graph import DTYPES, read_graph
from fromage_cli.problem.graphs.network import build_network, class_name
from fromage_cli.problem.graphs.program import Program

BUNDLE = "bundle"
"""Attribute of a network that was built from one."""
MODES = ("eval", "auto", "train")


def program_of(described: Any, constants: Mapping[str, Tensor], where: str) -> Program:
    """The program that a file describes; it is to be attached to its network. Raises InputError and UnsafeError."""
    graphs = described.get("graphs") if isinstance(described, dict) else None
    if not isinstance(graphs, dict) or not graphs or not set(graphs) <= set(MODES):
        raise InputError(f"{where} holds no graphs.", DAMAGED)
    network = described.get("network")
    ties = network.get("ties") if isinstance(network, dict) else None
    dtype = described.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES or not DTYPES[dtype].is_floating_point:
        raise InputError(f"{where} names no precision.", DAMAGED)
    return Program(
        {mode: read_graph(graph, f"{where} ({mode})") for mode, graph in graphs.items()},
        getattr(torch, dtype),
        constants,
        aliases={str(alias): str(name) for alias, name in ties.items()} if isinstance(ties, dict) else {},
        inputs=_inputs(described, where),
        rows=described["rows"] if isinstance(described.get("rows"), int) else None,
    )


def _inputs(described: Mapping[str, Any], where: str) -> list[tuple[int, ...]]:
    """The shapes of the inputs, without their rows."""
    try:
        return [tuple(int(size) for size in one["shape"]) for one in described["inputs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where} does not say what its inputs are.", DAMAGED) from error


def bundled_network(bundle: Bundle) -> tuple[nn.Module, str]:
    """The network of a bundle on the meta device, and how to describe it; its weights are to be loaded into it.

    Raises MismatchError where the bundle has no graph, InputError and UnsafeError.
    """
    if not bundle.has_graph:
        about = bundle.manifest.get("graph")
        why = str(about.get("missing"))[:300] if isinstance(about, dict) else "it was saved without one"
        raise MismatchError(
            f"The bundle {quoted(bundle.directory)} holds no graph of the network: {why}",
            f"Give --model with what builds it: {str(bundle.manifest.get('factory'))[:200]}. It needs --model-arg "
            "where it takes arguments.",
        )
    bundle.verify(GRAPHS, CONSTANTS)
    described = read_object(bundle.path(GRAPHS) or bundle.directory / GRAPHS)
    tensors = _tensors(bundle.path(CONSTANTS))
    constants = {name.removeprefix("constant."): value for name, value in tensors.items() if name[:9] == "constant."}
    buffers = {name.removeprefix("buffer."): value for name, value in tensors.items() if name[:7] == "buffer."}
    where = quoted(bundle.directory / GRAPHS)
    program = program_of(described, constants, where)
    network = build_network(described.get("network"), program, buffers, where)
    network.__dict__[BUNDLE] = bundle, program
    return network, f"{class_name(network)}, a graph in the bundle"


def bundle_of(network: nn.Module) -> tuple[Bundle, Program] | None:
    """The bundle that a network was built from, and its program; None for any other network."""
    found: tuple[Bundle, Program] | None = network.__dict__.get(BUNDLE)
    return found


def bundled_batch(bundle: Bundle) -> Batch:
    """The batch that was saved. Raises InputError."""
    bundle.verify(BATCH)
    tensors = _tensors(bundle.path(BATCH))
    try:
        data = _arranged(bundle.manifest.get("batch"), tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"The manifest of {quoted(bundle.directory)} describes no batch.", DAMAGED) from error
    return as_batch(data, str(bundle.directory))


def _tensors(path: Path | None) -> dict[str, Tensor]:
    if path is None:
        return {}
    header = read_header(path)
    return {name: find_tensor(header, name).read() for name in header.entries}


def _arranged(described: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A batch as it was arranged."""
    ((kind, value),) = described.items()
    if kind == "tensor":
        return tensors[str(value)]
    if kind == "dict":
        return {key: _arranged(item, tensors) for key, item in value}
    if kind in ("list", "tuple"):
        items = [_arranged(item, tensors) for item in value]
        return tuple(items) if kind == "tuple" else items
    if kind != "value" or isinstance(value, list | dict):
        raise ValueError(kind)
    return value
