"""Saving a bundle from a training loop, which goes on as if nothing had happened."""

import inspect
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import fromage_cli
from fromage_cli.bundle.graphs import Graphs, graphs_of
from fromage_cli.bundle.optimizer_state import describe_optimizers
from fromage_cli.bundle.outputs_loss import OfOutputs
from fromage_cli.bundle.shared_weights import all_or_none, in_turn, is_shared
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
from fromage_cli.problem.graphs.encoding import NotExportable
from fromage_cli.problem.graphs.network import describe_network
from fromage_cli.problem.losses.loss_terms import Loss
from fromage_cli.problem.losses.losses import BUILT_IN_LOSSES, resolve_loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss, ModelsOwnLoss, OutputLoss
from fromage_cli.problem.losses.supervised_losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    SquaredError,
    SupervisedLoss,
)
from fromage_cli.problem.networks.layers import unwrapped

KINDS = ("cpu", "cuda")
"""Devices that may be in autocast."""
_KNOWN: Mapping[type[nn.Module], tuple[str, Callable[[], nn.Module]]] = {
    nn.CrossEntropyLoss: ("cross-entropy", nn.CrossEntropyLoss),
    nn.MSELoss: ("mse", nn.MSELoss),
    nn.BCEWithLogitsLoss: ("bce", nn.BCEWithLogitsLoss),
}
"""Losses of torch that have a name here, where they have no settings of their own."""
_NAMED: Mapping[str, Loss] = {loss.name: loss for loss in (CrossEntropy(), SquaredError(), BinaryCrossEntropy())}
"""Losses that a name alone tells; which loss `auto` is takes a pass."""
_FUNCTIONS: Mapping[Any, str] = {
    functional.cross_entropy: "cross-entropy",
    functional.mse_loss: "mse",
    functional.binary_cross_entropy_with_logits: "bce",
}


@dataclass(frozen=True)
class Snapshot:
    """What a training loop hands over to be saved."""

    live: nn.Module
    """The network that is trained, out of its wrappers."""
    rows: Batch
    loss: str | Callable[..., Any] | Loss
    optimizer: Any = None
    """One of torch, several, what a checkpoint told of one, or None."""
    step: int | None = None
    module: nn.Module | None = None
    """The plain network of which `live` is the sharded one."""
    factory: str | None = None
    autocast: str | None = None
    """The precision of the forward pass where autocast is on."""
    warns: bool = False
    """Whether a warning tells that there is no graph, which commands find otherwise."""

    @property
    def network(self) -> nn.Module:
        """The network that a graph is made of."""
        return self.live if self.module is None else self.module


def save_from_loop(
    directory: Path, model: nn.Module, batch: Any, loss: str | Callable[..., Any], *, strict: bool, **further: Any
) -> Path | None:
    """Write a bundle, as `fromage_cli.bundle.save` says; what fails is a warning, or an exception under `strict`."""
    narrow = next((torch.get_autocast_dtype(kind) for kind in KINDS if torch.is_autocast_enabled(kind)), None)
    try:
        with torch.inference_mode(False), _in_full_precision():
            live, word = unwrapped(model), None if narrow is None else str(narrow).removeprefix("torch.")
            shared, first = is_shared(live), not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
            if not first and not shared:
                return None
            rows = all_or_none(shared, partial(as_batch, batch, "the training loop"))
            snapshot = Snapshot(live, rows, loss, autocast=word, warns=True, **further)
            return write_bundle(directory, snapshot, first=first)
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


def write_bundle(directory: Path, snapshot: Snapshot, *, first: bool = True) -> Path | None:
    """Write what a snapshot holds; where weights are shared all ranks call it, and the `first` one writes.

    Without a graph everything else is still written, with the reason. Raises InputError where the directory cannot be
    written. Raises UsageError for a batch of other things than tensors, numbers and texts.
    """
    shared = is_shared(snapshot.live)
    described = describe_network(snapshot.network)
    arrangement = all_or_none(shared, partial(_arrangement, snapshot.rows.data))
    graphs, spec = all_or_none(shared, partial(_graphs, snapshot, first))
    weights, kept = tensors_of(snapshot.live, described)
    state, slots = describe_optimizers(snapshot.live, snapshot.optimizer) if snapshot.optimizer else (None, [])
    with in_turn(weights, slots, kept) as (weights, slots, kept):
        if first:
            _write_files(directory, snapshot, graphs, (weights, slots, kept), {
                "network": described["modules"][""]["class"],
                "batch": arrangement,
                "loss": _name_of(snapshot.loss, spec),
                "optimizer": state,
            })  # fmt: skip
    return directory if first else None


def _write_files(
    directory: Path,
    snapshot: Snapshot,
    graphs: Graphs | str,
    tensors: tuple[list[Written], list[Written], list[Written]],
    described: Mapping[str, Any],
) -> None:
    """Writes all files, the manifest last; `tensors`: the weights, the optimizer's, and buffers no checkpoint keeps."""
    (weights, slots, kept), files = tensors, {}
    with replacing(directory) as place:
        metadata = {"step": str(snapshot.step)} if snapshot.step is not None else {}
        files[WEIGHTS] = write_tensors(place / WEIGHTS, weights, metadata)
        if slots:
            files[OPTIMIZER] = write_tensors(place / OPTIMIZER, slots, {})
        if isinstance(graphs, Graphs):
            constants = [whole(f"constant.{name}", tensor) for name, tensor in graphs.constants.items()]
            files[CONSTANTS] = write_tensors(place / CONSTANTS, [*kept, *constants], {})
            files[GRAPHS] = write_text(place / GRAPHS, json.dumps(graphs.described, separators=(",", ":")))
        rows = [whole(f"{number}", tensor) for number, (_, tensor) in enumerate(named_tensors(snapshot.rows.data))]
        files[BATCH] = write_tensors(place / BATCH, rows, {})
        kind = type(snapshot.live)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": {
                "fromage-diag": fromage_cli.__version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            "step": snapshot.step,
            "factory": snapshot.factory or f"{kind.__module__}:{kind.__qualname__}",
            "rows": snapshot.rows.size,
            "autocast": snapshot.autocast,
            **described,
            "graph": _about(graphs),
            "files": files,
        }
        write_text(place / MANIFEST, json.dumps(manifest, indent=1))


def _graphs(snapshot: Snapshot, first: bool) -> tuple[Graphs | str, Loss | None]:
    """The graphs, or why there are none; and the loss, where it could be told."""
    spec = loss_of(snapshot.loss, snapshot.live, snapshot.rows)  # a pass of all ranks where weights are shared
    try:
        if is_shared(snapshot.live) and snapshot.module is None:
            raise NotExportable("The weights are sharded, and no plain network was given as module=.", "")
        if not first:
            return "Another rank makes the graphs.", spec
        return graphs_of(snapshot.network, spec, snapshot.rows), spec
    except NotExportable as error:
        if snapshot.warns and first:
            message = "The bundle has no graph of the network, so commands will need --model."
            warnings.warn(f"{message} {error.message}", stacklevel=2)
        return error.message, spec


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


def loss_of(loss: str | Callable[..., Any] | Loss, network: nn.Module, rows: Batch) -> Loss:
    """The loss that was named or given, as commands take it.

    Raises UsageError and MismatchError.
    """
    if isinstance(loss, FunctionLoss | ModelsOwnLoss | OutputLoss | SupervisedLoss):
        return loss
    if isinstance(loss, nn.Module) and type(loss) in _KNOWN:
        name, make = _KNOWN[type(loss)]
        loss = name if vars(make()) == vars(loss) | {"training": True} else loss
    elif not isinstance(loss, str | nn.Module) and loss in _FUNCTIONS:
        loss = _FUNCTIONS[loss]
    if isinstance(loss, str):
        if loss in _NAMED:
            return _NAMED[loss]
        if loss not in BUILT_IN_LOSSES:
            raise UsageError(
                f"The loss {loss!r} is not known.", f"Give one of {', '.join(BUILT_IN_LOSSES)}, or a function."
            )
        return resolve_loss(loss, network, rows)
    name = _name_of(loss, None)["name"]
    if isinstance(loss, nn.Module) or getattr(loss, "__module__", "") == functional.__name__:
        return FunctionLoss(name, OfOutputs(loss))
    return FunctionLoss(name, loss)


def _name_of(loss: Any, spec: Loss | None) -> dict[str, Any]:
    """How the loss is called, and as which of the named losses it is computed; None where it is in the graph."""
    if isinstance(spec, SupervisedLoss | OutputLoss):
        return {"name": spec.name, "spec": spec.name}
    if isinstance(spec, ModelsOwnLoss):
        return {"name": spec.name, "spec": "auto"}
    if isinstance(loss, FunctionLoss):
        return {"name": loss.name, "spec": None}
    kind = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__qualname__", type(loss).__name__)
    source = inspect.getmodule(loss)
    own = source is not None and source.__name__.partition(".")[0] != "torch"
    return {"name": f"{kind} of {source.__name__}" if source is not None and own else str(kind), "spec": None}


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
