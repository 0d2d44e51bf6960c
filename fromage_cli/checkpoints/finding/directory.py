"""Which file in a directory is the weights, and what to say when none is."""

import re
from pathlib import Path

from fromage_cli.checkpoints.finding.library_layouts import library_layout
from fromage_cli.checkpoints.formats.content import SUPPORTED
from fromage_cli.checkpoints.formats.foreign import foreign_directory
from fromage_cli.checkpoints.names.library_files import ACCELERATE, METADATA, MODEL_STATES, SHARD_OF_RANK
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.names.steps import SHARD, order_in_name
from fromage_cli.checkpoints.storage.files import names_in, opened, quoted
from fromage_cli.counting import counted
from fromage_cli.errors import InputError

MAIN_FILES = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    "flax_model.msgpack",
)
"""Hugging Face's names of the weights, in order of preference."""
RANK = re.compile(r"^mp_rank_[0-9]{2}(_[0-9]{3})*$")
"""Directories of Megatron's tensor- and pipeline-parallel ranks."""
LONGEST_TAG = 255
"""Characters of the name in the file `latest`: no name of a directory has more."""
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
SUFFIXES = ((".safetensors",), (".pt", ".pth", ".bin", ".ckpt"), (".npz",), (".msgpack",))  # in order of preference
_OTHER = (
    r"(batch|batches|optim|optimizer|optimizers|scheduler|lr_scheduler|scaler|sampler|dataloader"
    r"|training_args|rng_states?|random_states|optim_states)"
)
OTHER_STATE = re.compile(rf"^{_OTHER}([-_.]|$)|(^|[-_.]){_OTHER}(?:[-_.]?[0-9]++)*+$", re.IGNORECASE)


def own_weights(directory: Path) -> Path | None:
    """Return the weights of a directory that is itself a checkpoint; None when it is not, or not clearly so.

    A single file with a step in its name is a series of one instead. Further steps may join it.
    """
    weights = weights_in(directory)
    if weights is None or has_usual_name(weights):
        return weights
    return weights if order_in_name(weights.stem) is None else None


def has_usual_name(weights: Path) -> bool:
    """Return whether weights have a name that says that their directory is one checkpoint."""
    name = weights.name
    return name in (*MAIN_FILES, METADATA) or name.endswith(INDEX_SUFFIXES) or _is_one_of_several(name)


def _is_one_of_several(name: str) -> bool:
    return bool(SHARD_OF_RANK.match(name) or MODEL_STATES.match(name))


def weights_in(directory: Path) -> Path | None:
    """Return the only file in a directory that can be its weights, by the usual names before others."""
    names = [name for name in sorted(names_in(directory)) if not (directory / name).is_dir()]
    usual = [directory / name for name in MAIN_FILES if name in names]
    usual += [file for file in (directory / METADATA, directory / ACCELERATE[0] / METADATA) if file.is_file()]
    usual += [directory / name for name in names if _is_one_of_several(name)]
    if usual:
        return usual[0]
    if len(ranks := _ranks(directory)) == 1 and not RANK.match(directory.name):  # none lies in another
        return weights_in(directory / ranks[0])
    indices = [name for name in names if name.endswith(INDEX_SUFFIXES)]
    if len(indices) == 1:
        return directory / indices[0]
    for suffixes in SUFFIXES:
        files = [name for name in names if may_be_weights(name, suffixes)]
        if files:
            return directory / files[0] if len(files) == 1 else None
    return None


def _ranks(directory: Path) -> list[str]:
    return sorted(name for name in names_in(directory) if RANK.match(name) and (directory / name).is_dir())


def latest_in(directory: Path) -> Path | None:
    """Return the weights that the file `latest` points to, which some trainers write; None where it does not."""
    pointer = directory / "latest"
    if not pointer.is_file():
        return None
    with opened(pointer) as file:
        tag = file.read(LONGEST_TAG + 1).decode("utf-8", "replace").strip()
    if not tag or len(tag) > LONGEST_TAG or "/" in tag or "\\" in tag or "\0" in tag or tag in (".", ".."):
        return None
    return weights_in(directory / tag) if (directory / tag).is_dir() else None


def may_be_weights(name: str, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file of this name may hold weights: no optimizer state, batch, shard or hidden file."""
    path = Path(name)
    other = name.startswith(".") or OTHER_STATE.search(path.stem) or SHARD.search(path.stem)
    return path.suffix in suffixes and not other


def without_weights(directory: Path, notes: tuple[str, ...] = ()) -> InputError:
    """Return the error for a directory in which no weights were found, by what was found instead."""
    names = sorted(names_in(directory))
    any_suffix = tuple(suffix for suffixes in SUFFIXES for suffix in suffixes)
    candidates = [name for name in names if may_be_weights(name, any_suffix)]
    where = f"Directory {quoted(directory)}"
    if notes:
        many = f"{len(notes)} incomplete steps were skipped (-v lists them)."
        hint = many if len(notes) > 1 else "Wait until it has been written."
        return InputError(f"{where} has no complete checkpoint. {notes[0]}", hint=hint, details=notes)
    if candidates:
        return InputError(
            f"{where} holds {len(candidates)} files that may be weights, with no steps in their names: "
            f"{listed(candidates)}.",
            hint="Name one of these files.",
            details=candidates,
        )
    if shards := [name for name in names if name.endswith(".distcp")]:
        return InputError(
            f"{where} is incomplete: it holds {counted(len(shards), 'shard')} of a "
            f"torch.distributed.checkpoint but no {METADATA}, which is written last.",
            hint="Take an earlier checkpoint, or copy this one again with its hidden file.",
        )
    if len(ranks := _ranks(directory)) > 1:
        return InputError(
            f"{where} holds the tensor- or pipeline-parallel shards of {counted(len(ranks), 'rank')} "
            f"({listed(ranks)}). They cannot be merged without the model's code.",
            hint=(
                "Merge them with the training code, or save with torch.distributed.checkpoint (--ckpt-format "
                "torch_dist)."
            ),
        )
    if shards := [name for name in names if SHARD.search(Path(name).stem)]:
        return InputError(
            f"{where} holds {counted(len(shards), 'shard')} but no index: {listed(shards)}.",
            hint="Put model.safetensors.index.json or pytorch_model.bin.index.json beside them.",
        )
    if layout := library_layout(directory):
        kind, hint = f"holds no weights; it is {layout.what}", layout.hint
    else:
        found = f"found: {listed(names)}" if names else "it is empty"
        kind, hint = foreign_directory(names) or (f"holds no weights; {found}", SUPPORTED)
    return InputError(f"{where} {kind}.", hint=hint, details=names)
