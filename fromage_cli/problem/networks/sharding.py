"""A network that no rank ever holds whole: built without memory, its weights spread over ranks by rows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.modules.module import register_module_parameter_registration_hook

from fromage_cli import ranks
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.gathering import gather_in_forward, whole_numbers
from fromage_cli.process_memory import give_back_large_blocks
from fromage_cli.shards import contiguous_strides, own_rows


@contextmanager
def without_memory() -> Iterator[None]:
    """Within it parameters take no memory once a module has them; buffers keep their values. Ties stay ties."""
    moved: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def register(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter.is_meta or nn.parameter.is_lazy(parameter):
            return None
        if id(parameter) not in moved:
            # the first is held as well: its memory is let go, its identity is not given to another
            empty = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            moved[id(parameter)] = parameter, empty
            parameter.data = torch.empty(0, dtype=parameter.dtype)
        return moved[id(parameter)][1]

    handle = register_module_parameter_registration_hook(register)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def spread(model: nn.Module, device: torch.device) -> None:
    """Let every parameter become this rank's rows of it, on a device: of one without memory room for them.

    Ties stay ties.

    Raises MismatchError for recurrent modules of torch and scripted ones, which hold their weights elsewhere too.
    """
    refuse_hidden_weights(model)
    give_back_large_blocks()
    found = ranks.current()
    mesh = init_device_mesh(device.type, (found.count,))
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(_own_rows(parameter, mesh, device), parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]


def _own_rows(parameter: Tensor, mesh: DeviceMesh, device: torch.device) -> Tensor:
    """The rows of a parameter that this rank holds; a single number is that of every rank."""
    rows = slice(*own_rows(parameter.shape[0], mesh.size(), mesh.get_local_rank())) if parameter.dim() else ...
    own = parameter.detach()[rows]
    own = torch.empty(own.shape, dtype=own.dtype, device=device) if own.is_meta else own.to(device, copy=True)
    if not parameter.dim():
        return DTensor.from_local(own, mesh, [Replicate()], run_check=False)
    return DTensor.from_local(
        own, mesh, [Shard(0)], run_check=False, shape=parameter.shape, stride=contiguous_strides(parameter.shape)
    )


def refuse_hidden_weights(model: nn.Module) -> None:
    """Raise MismatchError for modules whose weights cannot be replaced: scripted ones, and recurrent ones of torch."""
    held = [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, nn.RNNBase | torch.jit.ScriptModule)
    ]
    if held:
        raise MismatchError(
            f"--shard does not support recurrent layers of torch and scripted modules: {listed(held)}.",
            "Compute without --shard; with --nproc the rows are still shared.",
        )


def share_weights(model: nn.Module) -> None:
    """From now on the model's weights are gathered from all ranks where it uses them, as long as these last."""
    ranks.shard(gather_in_forward(model).left_out_of_graphs(), whole_numbers())
