"""How transformers reads a checkpoint into one of its models: its own old names, tensors that it merges or splits.

What `save_pretrained` writes is often spelled as in earlier releases, and expert by expert. The library's rules for
that are applied to the tensors that our reader supplies; nothing else of its loading runs.
"""

import importlib
import re
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, WholeTensor
from fromage_cli.problem.networks.layers import plain_name
from fromage_cli.problem.user_code.named_code import named_code

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint


LONGEST_NAME = 500
"""Characters of a name that is translated: the library's patterns take the square of them, and no model has so many."""


def as_transformers_reads(model: nn.Module, checkpoint: "Checkpoint") -> "Checkpoint":
    """The checkpoint with the names and shapes that its tensors have in a model of transformers; itself for others.

    What the model has no place for keeps its name. `stored_names` leads to the checkpoint's own names. A tensor that is
    made of several, or of a part of one, leads to itself. Raises MismatchError where the library's rules fail.
    """
    library: Any = sys.modules.get("transformers.modeling_utils")
    if library is None or not isinstance(model, library.PreTrainedModel):
        return checkpoint
    with named_code(f"transformers translates the names of {checkpoint.place}"):
        return _translated(model, checkpoint)


def untie_what_differs(model: Any, checkpoint: "Checkpoint") -> tuple[str, ...]:
    """Unties each name that the checkpoint gives other values than the one it is tied to. Returns these names."""
    stored = as_transformers_reads(model, checkpoint)
    untied = []
    for target, source in getattr(model, "all_tied_weights_keys", {}).items():
        if {target, source} <= stored.entries.keys() and not torch.equal(stored.tensor(target), stored.tensor(source)):
            owner, _, leaf = target.rpartition(".")
            parameter = model.get_parameter(target)
            setattr(model.get_submodule(owner), leaf, nn.Parameter(parameter.detach().clone()))
            untied.append(target)
    return tuple(untied)


def may_be_missing(model: nn.Module, name: str, value: Tensor) -> bool:
    """Whether transformers computes a tensor where a file lacks it, to the same numbers every time."""
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    same = not value.requires_grad or bool((value == value.flatten()[:1]).all())
    return any(re.search(pattern, name) for pattern in patterns) and same


def _translated(model: Any, checkpoint: "Checkpoint") -> "Checkpoint":
    loading: Any = importlib.import_module("transformers.core_model_loading")
    rules = importlib.import_module("transformers.conversion_mapping").get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, loading.WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, loading.WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    modules = dict(model.named_modules(remove_duplicate=False))
    expected: Mapping[str, Tensor] = {plain_name(n, modules): value for n, value in model.state_dict().items()}
    stored_names: dict[str, str] = {}
    parts: dict[str, list[tuple[str, str]]] = {}
    for stored in sorted(checkpoint.entries, key=loading.dot_natural_key):  # experts are merged in this order
        if len(stored) > LONGEST_NAME:
            stored_names[stored] = stored
            continue
        found = loading.rename_source_key(stored, renamings, converters, model.base_model_prefix, expected)
        if found[0] not in expected and stored in expected:  # spelled as the model does already
            found = stored, None
        name, pattern = found
        if name in expected and pattern is not None:
            parts.setdefault(name, []).append((stored, pattern))
        else:
            name = name if name in expected and name not in stored_names else stored
            stored_names[name] = stored

    def converted(first: str, device: str | None = None) -> dict[str, Tensor]:
        converter = deepcopy(by_pattern[parts[first][0][1]])
        for stored, pattern in parts[first]:
            entry = checkpoint.entries[stored]
            tensor = torch.empty(entry.shape, device="meta") if device else checkpoint.tensor(stored)
            converter.add_tensor(first, stored, pattern, tensor.to(expected[first].dtype))
        made = converter.convert(first, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    @lru_cache(maxsize=1)
    def read_converted(first: str) -> dict[str, Tensor]:
        return converted(first)

    entries = {name: replace(checkpoint.entries[stored], name=name) for name, stored in stored_names.items()}
    origin: dict[str, str] = {}
    for first in parts:
        for name, value in converted(first, "meta").items():
            origin[name] = first
            stored_names[name] = name
            entries[name] = TensorEntry(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))

    def find(name: str) -> StoredTensor:
        if name not in origin:
            return checkpoint.unread(name)
        entry = entries[name]
        return WholeTensor(entry.dtype, entry.shape, make=lambda: read_converted(origin[name])[name])

    return replace(checkpoint, entries=entries, stored_names=stored_names, find=find, spans={}, tied=())
