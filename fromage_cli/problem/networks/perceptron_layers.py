"""Which linear and norm layers a checkpoint's tensors form; a tensor that belongs to neither is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fromage_cli.errors import MismatchError

if TYPE_CHECKING:
    from fromage_cli.checkpoints import TensorEntry

_FLOATING = {"float16", "bfloat16", "float32", "float64"}
_LEAVES = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
_EMBEDDING = re.compile(r"(^|[._])(emb|embed|embedding|embeddings|wte|wpe)([._]|\d|$)", re.IGNORECASE)


@dataclass(frozen=True)
class LinearLayer:
    """A weight (outputs × inputs), with or without a bias."""

    path: str
    inputs: int
    outputs: int
    bias: bool


@dataclass(frozen=True)
class NormLayer:
    """A layer of tensors with one dimension, all of one width."""

    path: str
    width: int
    leaves: frozenset[str]


NETWORK_ITSELF = "Give --model file.py:factory. For a model of transformers put its config.json beside the weights."


def refusal(reason: str, hint: str = NETWORK_ITSELF) -> MismatchError:
    """The error of everything that cannot be rebuilt with certainty."""
    return MismatchError(
        f"A network can be rebuilt from its weights alone only if it is a plain perceptron: {reason}.", hint
    )


def read_layers(entries: Mapping[str, "TensorEntry"]) -> tuple[list[LinearLayer], list[NormLayer]]:
    """Linear layers and norm layers; every tensor belongs to one of them."""
    modules: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        path, _, leaf = name.rpartition(".")
        if not path:
            raise refusal(f"{name!r} has no layer name before it")
        modules.setdefault(path, {})[leaf] = entry
    linears, norms = [], []
    for path, tensors in modules.items():
        for entry in tensors.values():
            _check_tensor(entry)
        if "weight" in tensors and len(tensors["weight"].shape) == 2:
            outputs, inputs = tensors["weight"].shape
            extra = sorted(tensors.keys() - {"weight", "bias"})
            if extra:
                raise refusal(f"'{path}.{extra[0]}' does not belong to a linear layer")
            if "bias" in tensors and tensors["bias"].shape != (outputs,):
                raise refusal(f"'{path}.bias' has shape {list(tensors['bias'].shape)}, its weight {[outputs, inputs]}")
            linears.append(LinearLayer(path, inputs, outputs, "bias" in tensors))
            continue
        shapes = {entry.shape for leaf, entry in tensors.items() if leaf != "num_batches_tracked"}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not tensors.keys() & {"weight", "running_mean"}:
            raise refusal(
                f"the tensors of {path!r} ({', '.join(sorted(tensors))}) are neither a linear nor a norm layer"
            )
        norms.append(NormLayer(path, next(iter(shapes))[0], frozenset(tensors)))
    return linears, norms


def _check_tensor(entry: "TensorEntry") -> None:
    name, dimensions = entry.name, len(entry.shape)
    if name.endswith(".num_batches_tracked"):
        return
    if dimensions > 2:
        kind = "a convolution?" if dimensions in (3, 4, 5) else "unknown"
        raise refusal(f"{name!r} has {dimensions} dimensions ({kind})")
    if entry.dtype not in _FLOATING:
        raise refusal(f"{name!r} has type {entry.dtype} (quantised?)")
    if name.rpartition(".")[2] not in _LEAVES or dimensions == 0:
        raise refusal(f"{name!r} {list(entry.shape)} is neither a weight nor a bias of a linear or norm layer")
    if dimensions == 2 and _EMBEDDING.search(name):
        raise refusal(f"{name!r} looks like an embedding")
