"""A perceptron rebuilt as a module whose parameters have the checkpoint's names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.perceptron_layout import Placement, read_layout
from fromage_cli.problem.user_code.declared import Declared

if TYPE_CHECKING:
    from fromage_cli.checkpoints import TensorEntry

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
    "identity": lambda values: values,
}


@dataclass(frozen=True)
class _Stage:
    """One step of the forward pass: linear, norm, activation, skip connection."""

    linear: str
    norm: str | None
    activation: Callable[[Tensor], Tensor] | None
    residual: bool


class Perceptron(nn.Module):
    """h ← act(norm(W h + b)), under `residual` h + act(norm(W h + b)) in square layers; the last layer is linear."""

    def __init__(self, placements: tuple[Placement, ...], activation: str, residual: bool, norm: str) -> None:
        super().__init__()
        stages = []
        for placement in placements:
            linear, normed, hidden = placement.linear, placement.norm, placement is not placements[-1]
            self._place(linear.path, nn.Linear(linear.inputs, linear.outputs, bias=linear.bias, device="meta"))
            if normed is not None:
                layer: nn.Module
                if norm == "batchnorm":
                    tracked, affine = "running_mean" in normed.leaves, "weight" in normed.leaves
                    layer = nn.BatchNorm1d(normed.width, affine=affine, track_running_stats=tracked, device="meta")
                elif norm == "rmsnorm":
                    layer = nn.RMSNorm(normed.width, device="meta")
                else:
                    layer = nn.LayerNorm(normed.width, bias="bias" in normed.leaves, device="meta")
                self._place(normed.path, layer)
            stages.append(
                _Stage(
                    linear.path,
                    None if normed is None else normed.path,
                    _ACTIVATIONS[activation] if hidden else None,
                    residual and hidden and linear.inputs == linear.outputs,
                )
            )
        self._stages = tuple(stages)

    def _place(self, path: str, layer: nn.Module) -> None:
        """Register a layer under a dotted path, with containers on the way."""
        *parents, last = path.split(".")
        container: nn.Module = self
        for name in parents:
            if name not in container._modules:
                container.add_module(name, nn.Module())
            container = container.get_submodule(name)
        container.add_module(last, layer)

    def initialise(self) -> None:
        """New weights, drawn as torch draws them by default; off the meta device, onto the processor."""
        self.to_empty(device="cpu")
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.BatchNorm1d | nn.LayerNorm | nn.RMSNorm):
                layer.reset_parameters()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (rows, …) to (rows, outputs); more than two dimensions are flattened."""
        hidden = inputs.flatten(1) if inputs.ndim > 2 else inputs  # (rows, inputs)
        for stage in self._stages:
            branch = self.get_submodule(stage.linear)(hidden)
            if stage.norm is not None:
                branch = self.get_submodule(stage.norm)(branch)
            if stage.activation is not None:
                branch = stage.activation(branch)
            hidden = hidden + branch if stage.residual else branch
        return hidden


def build_perceptron(entries: Mapping[str, "TensorEntry"], declared: Declared) -> tuple[nn.Module, str]:
    """Rebuild a perceptron, on the meta device, from its tensors and what is declared; and say what was inferred.

    Raises MismatchError for whatever leaves a doubt.
    """
    declared.check("activation", "residual", "norm")
    norm = declared.norm or "none"
    placements = read_layout(entries, norm)
    if len(placements) > 1 and declared.activation is None:
        raise MismatchError(
            f"The checkpoint looks like a perceptron {_widths(placements)}, but no file says which activation it has.",
            'Write activation = "relu" (or another) into fromage.toml beside it. Or give --model file.py:factory.',
        )
    residual = bool(declared.residual)
    try:
        model = Perceptron(placements, declared.activation or "identity", residual, norm)
    except KeyError as error:
        raise MismatchError(
            f"A layer's name cannot be used for a module: {error}.", "Give --model file.py:factory."
        ) from error
    count = len(placements)
    said = [f"{count} weight {'matrix' if count == 1 else 'matrices'}"]
    if count > 1:
        said.append(str(declared.activation))
    if any(placement.norm for placement in placements):
        said.append(norm)
    if residual:
        said.append("residual")
    if not any(placement.linear.bias for placement in placements):
        said.append("no biases")
    return model, f"perceptron {_widths(placements)} ({', '.join(said)})"


def _widths(placements: tuple[Placement, ...]) -> str:
    """`784-64-64-…-10`: runs of one width longer than two are cut short."""
    widths = [placements[0].linear.inputs, *(placement.linear.outputs for placement in placements)]
    runs = [(width, len(list(run))) for width, run in groupby(widths)]
    return "-".join(f"{width}-{width}-…" if length > 2 else "-".join([str(width)] * length) for width, length in runs)
