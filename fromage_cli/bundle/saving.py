"""Saving a bundle from a training loop, which goes on as if nothing had happened."""

import inspect
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

import fromage_cli
from fromage_cli.bundle.graphs import Graphs, graphs_of
from fromage_cli.bundle.optimizer_state import describe_optimizers
from fromage_cli.bundle.writing import Written, replacing, whole, write_tensors, write_text
from fromage_cli.checkpoints.formats.bundle import (
    BATCH,
    CONSTANTS,
    FORMAT,
    GRAPHS,
    MANIFEST,
    OPTIMIZER,
    VERSION,
    WEIGHTS,
)
from fromage_cli.errors import FromageError, UsageError, words_of
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.data.pytrees import named_tensors
from fromage_cli.problem.graphs.network import describe_network
from fromage_cli.problem.losses.call import inputs_and_targets
from fromage_cli.problem.losses.loss_terms import Loss
from fromage_cli.problem.losses.losses import BUILT_IN_LOSSES, resolve_loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss, ModelsOwnLoss
from fromage_cli.problem.losses.supervised_losses import BinaryCrossEntropy, CrossEntropy, SquaredError, prediction
from fromage_cli.problem.networks.layers import unwrapped

KINDS = ("cpu", "cuda")
"""Devices that may be in autocast."""
_KNOWN: Mapping[type[nn.Module], tuple[str, Callable[[], nn.Module]]] = {
    nn.CrossEntropyLoss: ("cross-entropy", nn.CrossEntropyLoss),
    nn.MSELoss: ("mse", nn.MSELoss),
    nn.BCEWithLogitsLoss: ("bce", nn.BCEWithLogitsLoss),
}
"""Losses of torch that have a name here, where they have no settings of their own."""
_FUNCTIONS: Mapping[Any, str] = {
    functional.cross_entropy: "cross-entropy",
    functional.mse_loss: "mse",
    functional.binary_cross_entropy_with_logits: "bce",
}


def save_bundle(
    directory: Path,
    model: nn.Module,
    batch: Any,
    loss: str | Callable[..., Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    step: int | None,
    *,
    module: nn.Module | None,
    factory: str | None,
    strict: bool,
) -> Path | None:
    """Write a bundle, as `fromage_cli.bundle.save` says."""
    narrow = next((torch.get_autocast_dtype(kind) for kind in KINDS if torch.is_autocast_enabled(kind)), None)
    try:
        with torch.inference_mode(False), _in_full_precision():
            return _save(directory, model, batch, loss, optimizer, step, module, factory, narrow)
    except Exception as error:  # whatever it is, the training run matters more
        if strict:
            raise
        hint = f" {error.hint}" if isinstance(error, FromageError) and error.hint else ""
        message = f"The bundle {str(directory)!r} was not saved: {words_of(error)}{hint} The run goes on."
        warnings.warn(message, stacklevel=3)
        return None


@contextmanager
def _in_full_precision() -> Iterator[None]:
    """Autocast is off within the block: a graph does not hold it, so it is said beside the graph."""
    with ExitStack() as stack:
        for kind in KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _save(
    directory: Path,
    model: nn.Module,
    batch: Any,
    loss: str | Callable[..., Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    step: int | None,
    module: nn.Module | None,
    factory: str | None,
    narrow: torch.dtype | None,
) -> Path | None:
    live = unwrapped(model)
    shared = any(hasattr(parameter, "full_tensor") for parameter in live.parameters())
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if not first and not shared:
        return None
    rows = as_batch(batch, "the training loop")
    network = live if module is None else module
    found: Graphs | str
    described, spec = describe_network(network), None
    try:
        if shared and module is None:
            raise UsageError(
                "The network is sharded, so no graph can be made of it.",
                "Give module= the plain network on the meta device.",
            )
        spec = loss_of(loss, network, rows)
        found = graphs_of(network, spec, rows)
    except FromageError as error:
        found = error.message
    weights, kept = tensors_of(live, described)
    state, slots = describe_optimizers(live, optimizer) if optimizer is not None else (None, [])
    metadata = {"step": str(step)} if step is not None else {}
    if not first:
        for tensors in (weights, slots):
            write_tensors(None, tensors, {})
        return None
    files: dict[str, str] = {}
    with replacing(directory) as place:
        files[WEIGHTS] = write_tensors(place / WEIGHTS, weights, metadata)
        if slots:
            files[OPTIMIZER] = write_tensors(place / OPTIMIZER, slots, {})
        named = list(named_tensors(rows.data))
        tensors = [whole(f"{number}", tensor) for number, (_, tensor) in enumerate(named)]
        files[BATCH] = write_tensors(place / BATCH, tensors, {})
        if isinstance(found, Graphs):
            constants = [whole(f"constant.{name}", tensor) for name, tensor in found.constants.items()]
            files[CONSTANTS] = write_tensors(place / CONSTANTS, [*constants, *kept], {})
            files[GRAPHS] = write_text(place / GRAPHS, json.dumps(found.described, separators=(",", ":")))
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": {
                "fromage-diag": fromage_cli.__version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            "step": step,
            "network": described["modules"][""]["class"],
            "factory": factory or f"{type(live).__module__}:{type(live).__qualname__}",
            "batch": _arrangement(rows.data),
            "rows": rows.size,
            "loss": _name_of(loss, spec),
            "autocast": str(narrow).removeprefix("torch.") if narrow is not None else None,
            "optimizer": state,
            "graph": _about(found),
            "files": files,
        }
        write_text(place / MANIFEST, json.dumps(manifest, indent=1))
    return directory


def _about(found: Graphs | str) -> dict[str, Any]:
    """What the manifest says of the graphs, or why there are none."""
    if isinstance(found, str):
        return {"modes": [], "missing": found}
    return {
        "modes": list(found.described["graphs"]),
        "with_loss": found.described["with_loss"],
        "losses": found.losses,
        "fixed_rows": found.fixed or None,
        "missing": None,
        "left_out": found.left_out,
    }


def tensors_of(live: nn.Module, described: Mapping[str, Any]) -> tuple[list[Written], list[Written]]:
    """The weights and the buffers that checkpoints keep, each once; and the other buffers."""
    tensors = {**dict(live.named_parameters()), **dict(live.named_buffers())}
    persistent = [name for name, one in described["buffers"].items() if one["persistent"]]
    names = [name for name in [*described["parameters"], *persistent] if name in tensors]
    others = [name for name, one in described["buffers"].items() if not one["persistent"] and name in tensors]
    return (
        [whole(name, tensors[name]) for name in names],
        [whole(f"buffer.{name}", tensors[name]) for name in others],
    )


def loss_of(loss: str | Callable[..., Any], network: nn.Module, rows: Batch) -> Loss:
    """The loss that was named or given, as commands take it.

    Raises UsageError and MismatchError.
    """
    if isinstance(loss, nn.Module) and type(loss) in _KNOWN:
        name, make = _KNOWN[type(loss)]
        loss = name if vars(make()) == vars(loss) | {"training": True} else loss
    elif not isinstance(loss, str | nn.Module) and loss in _FUNCTIONS:
        loss = _FUNCTIONS[loss]
    if isinstance(loss, str):
        if loss not in BUILT_IN_LOSSES:
            raise UsageError(
                f"The loss {loss!r} is not known.", f"Give one of {', '.join(BUILT_IN_LOSSES)}, or a function."
            )
        return resolve_loss(loss, network, rows)
    name = _name_of(loss, None)["name"]
    if isinstance(loss, nn.Module) or getattr(loss, "__module__", "") == functional.__name__:
        return FunctionLoss(name, _of_outputs(loss))
    return FunctionLoss(name, loss)


class _of_outputs:
    """A loss of outputs and targets as a function of the network and the batch."""

    def __init__(self, criterion: Callable[..., Any]) -> None:
        self.criterion = criterion

    def __call__(self, network: nn.Module, data: Any) -> Any:
        sizes = [len(tensor) for _, tensor in named_tensors(data)]
        positional, named, target = inputs_and_targets(network, Batch(data, sizes[0], "the batch"))
        if not isinstance(target, Tensor):
            raise UsageError(
                "The batch has no target that the loss could take.", "Name it y, or give a function(model, batch)."
            )
        return self.criterion(prediction(network(*positional, **named)), target)


def _name_of(loss: Any, spec: Loss | None) -> dict[str, Any]:
    """How the loss is called, and as which of the named losses it is computed; None where it is in the graph."""
    if isinstance(spec, CrossEntropy | SquaredError | BinaryCrossEntropy):
        return {"name": spec.name, "spec": spec.name}
    if isinstance(spec, ModelsOwnLoss) or isinstance(loss, str):
        return {"name": spec.name if spec is not None else loss, "spec": "auto" if loss == "auto" else loss}
    kind = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__qualname__", type(loss).__name__)
    source = inspect.getmodule(loss)
    return {"name": f"{kind} of {source.__name__}" if source is not None else str(kind), "spec": None}


def _arrangement(data: Any) -> Any:
    """How a batch is arranged, with the number of each tensor."""
    number = iter(range(1 << 30))

    def arranged(value: Any) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": next(number)}
        if isinstance(value, Mapping):
            return {"dict": [[key, arranged(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {"tuple" if isinstance(value, tuple) else "list": [arranged(item) for item in value]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        raise UsageError(
            f"The batch holds a {type(value).__name__}; a bundle keeps tensors, numbers and texts.",
            "Leave it out of the batch.",
        )

    return arranged(data)
