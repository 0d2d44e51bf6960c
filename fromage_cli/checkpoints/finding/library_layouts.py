"""What other libraries put beside weights: the mark of their directories, and what to do with them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from fromage_cli.checkpoints.names.naming import BRIEF, brief, listed
from fromage_cli.checkpoints.storage.files import names_in
from fromage_cli.checkpoints.storage.json_file import read_object

CONFIG = "config.json"
"""Where transformers, diffusers and timm describe a network."""


@dataclass(frozen=True)
class LibraryLayout:
    """A directory that a library wrote, whose network cannot be built from it alone."""

    what: str
    """Completes `it is …`."""
    hint: str


def is_transformers_config(values: Mapping[str, Any]) -> bool:
    """Return whether a configuration describes a network as the transformers library does."""
    return isinstance(values.get("model_type"), str) or isinstance(values.get("architectures"), list)


def library_layout(directory: Path) -> LibraryLayout | None:
    """Return what wrote a directory, and what to do; None where nothing tells, or transformers did.

    Raises InputError where a file that should tell is not JSON.
    """
    return next(_layouts(directory, set(names_in(directory))), None)


def _layouts(directory: Path, names: set[str]) -> Iterator[LibraryLayout | None]:
    """Yield what the files of these names tell, the surest first."""
    config = read_object(directory / CONFIG) if CONFIG in names else {}
    parts = listed(sorted(name for name in names if (directory / name / CONFIG).is_file()))
    if "adapter_config.json" in names:
        base = brief(read_object(directory / "adapter_config.json").get("base_model_name_or_path"))
        hint = "Merge it into that network (merge_and_unload() in peft, then save_pretrained). Then name the result."
        yield LibraryLayout(f"an adapter that PEFT trained for {base}, not a network", hint)
    if "model_index.json" in names:
        kind = brief(read_object(directory / "model_index.json").get("_class_name"))
        yield LibraryLayout(f"a pipeline of diffusers ({kind}) of several networks", f"Name one of them: {parts}.")
    if "_diffusers_version" in config:
        kind = brief(config.get("_class_name"))
        yield LibraryLayout(f"a network of diffusers ({kind})", _factory("from_config() of that class"))
    if is_transformers_config(config):
        yield None
    if isinstance(name := config.get("architecture"), str):
        classes = config.get("num_classes")
        more = f" --model-arg num_classes={classes}" if isinstance(classes, int) else ""
        hint = f"Give --model timm:create_model --model-arg model_name={quote(name[:BRIEF])}{more}."
        yield LibraryLayout(f"a network of timm ({brief(name)})", hint)
    if "modules.json" in names:
        yield LibraryLayout("a chain of modules of sentence-transformers", f"Name the encoder's directory: {parts}.")
    if "open_clip_config.json" in names:
        yield LibraryLayout("a network of open_clip", _factory("open_clip.create_model()"))
    if any(name.endswith(".gguf") for name in names):
        yield LibraryLayout("a GGUF file, whose weights are quantised", "Use the checkpoint that it was made from.")


def _factory(maker: str) -> str:
    return f"Write a factory that returns what {maker} builds, and give --model file.py:factory."
