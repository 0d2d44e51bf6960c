"""`--model hf`: a network of the transformers library, from the config.json beside a checkpoint.

The configuration is data from the same source as the weights. Only classes that transformers itself ships are made from
it. Anything else that it would fetch or run is refused or dropped: code of its own, kernels and backbones from a hub.
"""

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fromage_cli.checkpoints.finding.library_layouts import CONFIG, is_transformers_config, library_layout
from fromage_cli.checkpoints.names.library_files import ACCELERATE
from fromage_cli.checkpoints.storage.json_file import read_object
from fromage_cli.errors import FromageError, InputError, MismatchError, UnsafeError, UsageError
from fromage_cli.problem.networks.building_limits import BuildingLimits
from fromage_cli.problem.networks.hugging_face_weights import untie_what_differs
from fromage_cli.problem.user_code.named_code import named_code, seeded

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint

ARCHITECTURE = "architecture"
"""`--model-arg architecture=NAME` names another class than the configuration does."""
LOADING = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal", "use_kernels"),
    *("kernel_config", "trust_remote_code", "use_pretrained_backbone", "dtype", "torch_dtype", "auto_map"),
    *("fusion_config", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
)
"""Keys that say how to load or speed up a model, not what it is; some of them name code elsewhere.

The last ones are timm's, to which transformers hands whole dictionaries on: it would unpickle a file that they name.
"""

FLOAT = "__float__"
"""How transformers marks a number that JSON has not."""
COUNTS = re.compile(r"layer|depth|block|expert|head|stage|label")
"""Words in the names of numbers that say how many modules or classes there are."""
LEAST_COUNT = 10_000
"""Of them, however few tensors the checkpoint has, and however short they are: a configuration lists its classes."""


def directory_of(checkpoint: "Checkpoint") -> Path:
    """Where a checkpoint's weights lie, with what stands beside them."""
    weights = checkpoint.weights or checkpoint.path
    return weights.parent.parent if weights.parent.name == ACCELERATE[0] else weights.parent


def transformers_config(checkpoint: "Checkpoint") -> Path | None:
    """The configuration of transformers that stands beside a checkpoint's weights, else above their directory."""
    home = directory_of(checkpoint)
    for path in (home / CONFIG, home.absolute().parent / CONFIG):
        with suppress(InputError):
            if path.is_file() and is_transformers_config(read_object(path)):
                return path
    return None


def build_hugging_face(
    checkpoint: "Checkpoint | None", arguments: Mapping[str, Any], seed: int = 0
) -> tuple[nn.Module, str]:
    """The model that config.json describes, with weights of its own, and how to describe it.

    `arguments` replace values of the configuration. Attention and experts are computed step by step, so that they can
    be differentiated twice, in every precision. Raises UsageError without a checkpoint or transformers, InputError
    without a configuration that transformers knows. Raises UnsafeError where that asks for code of its own, and
    MismatchError where transformers cannot build it.
    """
    if checkpoint is None:
        raise UsageError(
            "--model hf reads the config.json beside a checkpoint, and no checkpoint was given.", "Give CKPT."
        )
    home = directory_of(checkpoint)
    path = transformers_config(checkpoint) or home / CONFIG
    if layout := library_layout(home):
        raise MismatchError(
            f"--model hf builds networks of transformers, but {str(home)!r} is {layout.what}.", layout.hint
        )
    if not path.is_file():
        raise InputError(
            f"--model hf needs {CONFIG} beside the weights, but {str(home)!r} has none.",
            "Copy it there, or build the network yourself: --model file.py:factory.",
        )
    values = {**read_object(path), **arguments}
    named = arguments.get(ARCHITECTURE)
    _refuse_code(path, values, named is not None)
    longest = max(
        (max(entry.shape) for entry in checkpoint.entries.values() if entry.shape and entry.elements), default=0
    )
    _refuse_counts(path, values, max(LEAST_COUNT, len(checkpoint.entries), longest))
    transformers = _library(path)
    with offline(), seeded(seed), named_code(f"building the model of {path}"):
        kind = _class(transformers, path, values, named)
        configuration = kind.config_class.from_dict(_without_loading(values))
        configuration.use_cache = False
        configuration._experts_implementation = "eager"
        build = partial(kind._from_config, configuration, attn_implementation="eager", dtype="float32")
        limits = BuildingLimits(f"{path} describes", checkpoint.parameters, len(checkpoint.entries))
        try:
            with torch.device("meta"), limits.watching():
                limits.check_whole(build())
        except FromageError:
            raise
        except Exception:  # it cannot be built without memory
            with limits.watching():
                model = build()
        else:
            model = build()
    untied = untie_what_differs(model, checkpoint)
    said = f"; {', '.join(untied)} is not tied, as the checkpoint holds other values for it" if untied else ""
    if (path.parent / "modules.json").is_file():
        said += "; only the encoder of a sentence-transformers model"
    return model, f"{kind.__name__} of transformers {transformers.__version__}, from {path}{said}"


def _refuse_code(path: Path, values: Mapping[str, Any], chosen: bool) -> None:
    """Refuse a configuration that names code of its own, unless the user names a class of transformers instead."""
    if values.get("auto_map") and not chosen:
        raise UnsafeError(
            f"{path} needs code that is not part of transformers (auto_map). Nothing was executed.",
            "Build the network yourself: --model file.py:factory. If a class of transformers fits, name "
            f"it: --model-arg {ARCHITECTURE}=NAME.",
        )
    if values.get("quantization_config"):
        raise InputError(
            f"{path} says that the weights are quantised. They have no gradient to measure.",
            "Measure the checkpoint that they were made from.",
        )


def _refuse_counts(path: Path, values: Any, most: int, key: str = "") -> None:
    """Refuse a configuration of far more modules than the checkpoint has tensors: building them would not end."""
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else ((key, value) for value in values):
            _refuse_counts(path, value, most, str(name))
    elif isinstance(values, int) and values > most and COUNTS.search(key):
        raise MismatchError(
            f"{path} says {key} = {values}, but the checkpoint has too few tensors for that.",
            "It belongs to another checkpoint, or is damaged.",
        )


def _library(path: Path) -> Any:
    """The library itself; raises UsageError where it is not installed, and says which configuration needs it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            f"{path} describes a model of transformers, which needs the package {error.name or 'transformers'}.",
            "Install it: python -m pip install 'fromage-diag[hf]'. Or give your own network: --model file.py:factory.",
        ) from error
    transformers.logging.set_verbosity_error()
    return transformers


def _class(transformers: Any, path: Path, values: Mapping[str, Any], named: Any) -> Any:
    """The class of transformers' own that a configuration or the user names."""
    listed = values.get("architectures")
    name = named if named is not None else listed[0] if isinstance(listed, list) and listed else None
    kind: Any = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    described = getattr(kind, "config_class", None)
    if described is None or not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise InputError(
            f"{path} names {name!r}, which is not a model of transformers {transformers.__version__}.",
            f"Name one, for example --model-arg {ARCHITECTURE}=BertForMaskedLM. Or give --model file.py:factory.",
        )
    model_type = values.get("model_type")
    if model_type not in (None, described.model_type):
        raise MismatchError(
            f"{path} describes a {model_type!r}, but {name} is a {described.model_type!r}.",
            f"Give --model-arg {ARCHITECTURE}=NAME with a class of that kind.",
        )
    return kind


def _without_loading(values: Any) -> Any:
    """A configuration, and those inside it, without the keys that only say how to load a model.

    A number that JSON has not is spelled `{"__float__": "Infinity"}`.
    """
    if isinstance(values, list):
        return [_without_loading(value) for value in values]
    if not isinstance(values, dict):
        return values
    if set(values) == {FLOAT}:
        return float(values[FLOAT])
    return {key: _without_loading(value) for key, value in values.items() if key not in (*LOADING, ARCHITECTURE)}


@contextmanager
def offline() -> Iterator[None]:
    """Let nothing be fetched from a hub meanwhile."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
