"""The network itself: from the user's factory, or rebuilt from the checkpoint where that is certain."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fromage_cli.checkpoints.finding.library_layouts import library_layout
from fromage_cli.checkpoints.formats.bundle import is_bundle, read_bundle
from fromage_cli.errors import MismatchError, UsageError
from fromage_cli.problem.data.pytrees import in_precision
from fromage_cli.problem.graphs.reading import bundled_network
from fromage_cli.problem.networks.hugging_face_models import build_hugging_face, directory_of, transformers_config
from fromage_cli.problem.networks.perceptron import Perceptron, build_perceptron
from fromage_cli.problem.user_code.declared import Declared
from fromage_cli.problem.user_code.named_code import check_arguments, named_code, seeded
from fromage_cli.problem.user_code.specification import load_named, parse_specification

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint

MODEL_FORMS = "auto, hf, a bundle, pkg.module:factory or path/file.py:factory"


def build_model(
    spec: str,
    arguments: Mapping[str, Any],
    checkpoint: "Checkpoint | None",
    declared: Declared,
    *,
    allow_code: bool = True,
    seed: int = 0,
) -> tuple[nn.Module, str]:
    """The model that a specification names, with weights of its own, and how to describe it.

    A bundle gives its network as a graph, and so does `auto` where the checkpoint is one.
    `hf` is transformers' own class for the config.json beside the checkpoint. `auto` is the factory declared beside the
    checkpoint, which is called only under `--trust`. Without one it is a perceptron rebuilt from names and shapes, else
    `hf` where there is such a file. A perceptron stands on the meta device until its weights are loaded.

    Raises UsageError (unknown form), InputError, UnsafeError and MismatchError.
    """
    if spec == "auto" and declared.model not in (None, "auto"):
        return build_model(str(declared.model), arguments, checkpoint, declared, allow_code=allow_code, seed=seed)
    bundle = checkpoint.bundle if checkpoint is not None and spec == "auto" else None
    if bundle is None and spec not in ("auto", "hf") and is_bundle(Path(spec)):
        bundle = Path(spec)
    if bundle is not None:
        if arguments:
            raise UsageError(
                "--model-arg sets arguments of a factory, and the network of a bundle has none.",
                "Leave --model-arg out, or give --model file.py:factory.",
            )
        return bundled_network(read_bundle(bundle))
    if spec == "auto":
        if checkpoint is None:
            raise UsageError(
                "No checkpoint was given, and --model auto builds the network from one.",
                "Give CKPT. Or give a network with weights of its own: --model "
                f"{MODEL_FORMS.removeprefix('auto, hf, a bundle, ')}.",
            )
        return _build_auto(arguments, checkpoint, declared, seed)
    if spec == "hf":
        return build_hugging_face(checkpoint, arguments, seed)
    if parse_specification(spec) is None:
        near = (
            f"Name the function: {spec}:FACTORY."
            if spec.endswith(".py")
            else "--model auto rebuilds plain perceptrons."
        )
        raise UsageError(f"--model {spec!r} is not a known form; expected {MODEL_FORMS}.", near)
    with seeded(seed):
        named = load_named(spec, "--model", allow_code=allow_code)
    with seeded(seed):  # again: whether the file had to be imported first must not matter
        model = _from_factory(named, spec, arguments)
    return model, f"{type(model).__name__} from {spec}"


def _build_auto(
    arguments: Mapping[str, Any], checkpoint: "Checkpoint", declared: Declared, seed: int
) -> tuple[nn.Module, str]:
    """A perceptron where the checkpoint makes one, else the network of a configuration of transformers beside it."""
    described = transformers_config(checkpoint) is not None
    if arguments and not described:
        hint = f"Give --model {MODEL_FORMS.removeprefix('auto, ')}."
        raise UsageError("--model-arg sets arguments of a factory, but --model auto has none.", hint)
    if not arguments:
        try:
            return build_perceptron(checkpoint.entries, declared)
        except MismatchError as error:
            if layout := library_layout(directory_of(checkpoint)):
                raise MismatchError(f"{checkpoint.place} is {layout.what}.", layout.hint) from error
            if not described:
                raise
    return build_hugging_face(checkpoint, arguments, seed)


def converted(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its parameters and buffers in that precision; complex ones keep their imaginary parts.

    `Module.to` would drop these, and a rotary embedding would silently be another one.
    """
    return model._apply(lambda tensor: in_precision(tensor, dtype))  # type: ignore[no-untyped-call, no-any-return]


def fresh_model(build: Callable[[int], nn.Module], seed: int) -> nn.Module | None:
    """The network with the weights that its factory draws from a seed; None where it draws none.

    `build`: the factory, called with a seed. A factory that reads trained weights gives the same ones for every seed. A
    perceptron that was rebuilt gets the weights that torch draws by default.
    """
    model = build(seed)
    if isinstance(model, Perceptron):
        with seeded(seed):
            model.initialise()
        return model
    other = build(seed + 1)
    pairs = list(zip(model.parameters(), other.parameters(), strict=False))
    if model is other or any(first.is_meta for first, _ in pairs):
        return None
    return None if all(torch.equal(first, second) for first, second in pairs) else model


def _from_factory(named: Any, spec: str, arguments: Mapping[str, Any]) -> nn.Module:
    if isinstance(named, nn.Module):
        if arguments:
            raise UsageError(
                f"--model {spec} is a module, not a factory, so it takes no --model-arg.",
                "Leave --model-arg out, or name a function that builds the module.",
            )
        return named
    if not callable(named):
        raise MismatchError(
            f"--model {spec} is a {type(named).__name__}; expected a factory.",
            "Name a function that returns the module.",
        )
    check_arguments(named, (), arguments, "--model")
    with named_code(f"calling --model {spec}"):
        model = named(**arguments)
    if not isinstance(model, nn.Module):
        raise MismatchError(
            f"--model {spec} returned a {type(model).__name__}; expected a torch.nn.Module.",
            "Write build() that returns the network itself, and give --model file.py:build.",
        )
    return model
