"""From a path to a Checkpoint: find the weights, recognise them, read their structure, strip wrapper prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Checkpoint, Contents, Replica
from fromage_cli.checkpoints.finding.directory import latest_in, own_weights
from fromage_cli.checkpoints.finding.mirror import Mirror
from fromage_cli.checkpoints.finding.parallel_ranks import in_other_ranks
from fromage_cli.checkpoints.finding.series import highest_step
from fromage_cli.checkpoints.finding.trainer_files import (
    OPTIMIZER_FILES,
    load_optimizer,
    load_optimizers,
    read_trainer_files,
    settings_beside,
)
from fromage_cli.checkpoints.formats.bundle import read_bundled_optimizer
from fromage_cli.checkpoints.formats.content import PICKLED_FORMATS, SUPPORTED, kind_of
from fromage_cli.checkpoints.formats.deepspeed import read_deepspeed
from fromage_cli.checkpoints.formats.distributed import read_distributed
from fromage_cli.checkpoints.formats.distributed_safetensors import is_shard_of_rank, read_ranks
from fromage_cli.checkpoints.formats.flax_file import read_flax
from fromage_cli.checkpoints.formats.npz_file import read_npz
from fromage_cli.checkpoints.formats.quantised import with_whole_weights
from fromage_cli.checkpoints.formats.safetensors_file import read_safetensors
from fromage_cli.checkpoints.formats.sharded import is_index, read_sharded
from fromage_cli.checkpoints.formats.torch_file import load, read_torch
from fromage_cli.checkpoints.formats.zero_files import is_model_states
from fromage_cli.checkpoints.layers import BUFFERS
from fromage_cli.checkpoints.names.library_files import METADATA
from fromage_cli.checkpoints.names.naming import strip_prefixes
from fromage_cli.checkpoints.names.steps import step_in_name, step_of_directory
from fromage_cli.checkpoints.nested.choosing import ANY, Choice
from fromage_cli.checkpoints.nested.remainder import described
from fromage_cli.checkpoints.optimizers.matching import fitting
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.storage.files import quoted, status_of
from fromage_cli.checkpoints.storage.remote import is_url, local_path
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.errors import FromageError, InputError, UsageError

LEFT_ASIDE = "none"
"""What `--optimizer-state` names where the saved state is not to be used."""
CONFIGURATION = ("fromage.toml", "pyproject.toml")
"""Files beside weights that may declare what belongs to them."""


def open_checkpoint(
    path: str | Path,
    key: str | None = None,
    *,
    ema: bool | None = None,
    optimizer_state: str | Path | None = None,
    optimizer_key: str | None = None,
) -> Checkpoint:
    """Open a file, a directory or a URL; a directory of steps gives its highest complete step, and a note says so.

    `key`: the dotted path of the dictionary to take, of several nested ones; `ema`: whether to take averaged weights;
    `optimizer_state`: a file with the optimizer's state, or LEFT_ASIDE; `optimizer_key`: the dotted path of that state
    in its file. Raises InputError for what cannot be read, UnsafeError for what must not be, UsageError for a wrong
    key.
    """
    choice = Choice(key, ema, optimizer_key)
    if isinstance(path, str) and is_url(path):
        local = local_path(path)
        if local is None:
            return _open_remote(path, choice, optimizer_state)
        path = local
    return _open_local(Path(path), choice, optimizer_state)


def open_optimizer(path: Path) -> Checkpoint:
    """Open a PyTorch file that holds an optimizer's state alone: a checkpoint without tensors.

    Raises as `open_checkpoint` does, and InputError where there is no such state.
    """
    state, kind = load_optimizer(path), kind_of(path)
    loaded = load(Source.of_file(path), kind)
    return Checkpoint(
        path=path,
        format=kind,
        step=state.steps,
        entries={},
        metadata={},
        stripped=(),
        key=None,
        notes=loaded.notes,
        weights=path,
        read_optimizer=lambda: state,
        names=loaded.names,
    )


def _open_remote(url: str, choice: Choice, optimizer_state: str | Path | None) -> Checkpoint:
    """Open what a URL leads to; tensors of safetensors files are read by ranges."""
    mirror = Mirror(url)

    def through_mirror(contents: Contents) -> Contents:
        places = {
            name: (span, contents.entries[name])
            for name, span in contents.spans.items()
            if span.version.path.name in mirror.headers
        }

        def find(name: str) -> StoredTensor:
            return mirror.tensor(*places[name]) if name in places else contents.find(name)

        return replace(contents, find=find, spans={}, find_replicas=tuple)

    try:
        found = _open_local(mirror.weights(), choice, optimizer_state, through_mirror)
        for name in CONFIGURATION:
            mirror.fetch(mirror.home / name)
    except FromageError as error:
        raise mirror.error_about_url(error) from error
    directory = mirror.remote.url.rstrip("/").rsplit("/", 1 if mirror.remote.entry.directory else 2)[1:2]

    def optimizer() -> OptimizerState | None:
        for name in OPTIMIZER_FILES:
            mirror.fetch(mirror.home / name)
        return found.saved_optimizer

    return replace(
        found,
        url=mirror.remote.url,
        step=found.step if found.step is not None else step_of_directory(*directory),
        notes=(*found.notes, mirror.note),
        read_optimizer=optimizer,
    )


def _open_local(
    given: Path,
    choice: Choice,
    optimizer_state: str | Path | None,
    through: Callable[[Contents], Contents] = lambda contents: contents,
) -> Checkpoint:
    """Open what a path leads to: its weights, read `through` what fetches them, with what stands beside them."""
    weights, step, picked, notes = _find_weights(given)
    contents = with_whole_weights(through(_read(weights, choice)))
    if not contents.entries:
        raise InputError(
            f"{quoted(weights)} holds no tensors.", hint="It may hold only settings. Name the file with the weights."
        )
    trainer = read_trainer_files(weights)
    steps = (contents.step, trainer.step, step)
    stripped = strip_prefixes(contents.entries)
    shorter = {stored: name for name, stored in stripped.names.items()}

    def optimizer() -> OptimizerState | None:
        if optimizer_state == LEFT_ASIDE:
            return None
        if trainer.bundle is not None and optimizer_state is None:
            found = read_bundled_optimizer(trainer.bundle)
        else:
            found = _saved_optimizer(contents, trainer.optimizers, optimizer_state, choice.optimizer)
        copies = {name for group in contents.tied for name in group[1:]}
        trained = {
            shorter[name]: entry.shape
            for name, entry in contents.entries.items()
            if entry.floating and name not in copies and not name.endswith(BUFFERS)
        }
        return fitting(found, trained) if found is not None else None

    def rest() -> dict[str, object]:
        held = contents.describe_rest() if contents.describe_rest is not None else described(contents.metadata)
        return {**held, **settings_beside(weights)}

    def replicas() -> tuple[Replica, ...]:
        found = (*contents.find_replicas(), *in_other_ranks(weights, contents))
        return tuple(replace(one, name=shorter.get(one.name, one.name)) for one in found)

    return Checkpoint(
        path=given,
        format=contents.format,
        step=next((step for step in steps if step is not None), None),
        entries={name: replace(contents.entries[stored], name=name) for name, stored in stripped.names.items()},
        metadata=contents.metadata,
        stripped=stripped.prefixes,
        key=contents.key,
        notes=(*notes, *contents.notes, *trainer.notes, *stripped.notes),
        picked=picked,
        tied=tuple(tuple(shorter[stored] for stored in group) for group in contents.tied),
        weights=weights,
        stored_names=stripped.names,
        names=contents.names,
        find=contents.find,
        spans={shorter[stored]: span for stored, span in contents.spans.items()},
        read_optimizer=optimizer,
        bundle=trainer.bundle,
        describe_rest=rest,
        find_replicas=replicas,
    )


def _saved_optimizer(
    contents: Contents, beside: Sequence[Path], named: str | Path | None, key: str | None
) -> OptimizerState | None:
    """Read the state in the file that the user names, else in the weights' own, else in those beside it."""
    if isinstance(named, str) and is_url(named):
        return load_optimizer(local_path(named) or Mirror(named).only_file(), key)
    if named is not None:
        return load_optimizer(Path(named), key)
    found = contents.read_optimizer() if contents.read_optimizer is not None else None
    if found is None and beside:
        return load_optimizers(beside, key)
    if found is None and key is not None:
        raise UsageError(
            f"--optimizer-key {key!r} was given, but no optimizer's state was saved here.", "Leave --optimizer-key out."
        )
    return found


def _find_weights(path: Path) -> tuple[Path, int | None, tuple[str, ...], Iterable[str]]:
    """Return the weights file, the step that names tell, which of several it is, and what was passed over."""
    status_of(path)
    weights = own_weights(path) if path.is_dir() else path
    if weights is None:
        try:
            step, picked, skipped = highest_step(path)
            return step.weights, step.number if step.counts == "step" else None, picked, skipped
        except InputError:
            weights = latest_in(path)
            if weights is None:
                raise
    told = step_in_name(weights.stem)
    return weights, told if told is not None else step_of_directory(weights.absolute().parent.name), (), ()


def _read(path: Path, choice: Choice) -> Contents:
    """Read what a weights file is a part of by its name, else the file alone."""
    if is_index(path):
        _refuse_choice(choice, path)
        return read_sharded(path, lambda shard, allowance: _read_file(shard, ANY, allowance))
    if path.name == METADATA:
        return read_distributed(path, choice)
    if choice.key is None and is_model_states(path):
        _refuse_choice(choice, path)
        return read_deepspeed(path)
    if is_shard_of_rank(path):
        _refuse_choice(choice, path)
        return read_ranks(path)
    return _read_file(path, choice)


def _read_file(path: Path, choice: Choice = ANY, allowance: Allowance | None = None) -> Contents:
    """Read a single file by what its first bytes say that it is."""
    kind = kind_of(path)
    if kind in PICKLED_FORMATS:
        return read_torch(path, kind, choice, allowance)
    if kind == "msgpack":
        return read_flax(path, choice)
    _refuse_choice(choice, path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "npz":
        return read_npz(path)
    raise InputError(f"{quoted(path)} is JSON, but neither an index of shards nor a checkpoint.", hint=SUPPORTED)


def _refuse_choice(choice: Choice, path: Path) -> None:
    """Raise UsageError where the user chooses among dictionaries of a file that has none."""
    if choice.key is not None:
        raise UsageError(
            f"--key {choice.key!r} chooses among dictionaries of tensors, but {quoted(path)} has none.",
            hint="Leave --key out.",
        )
    if choice.ema:
        raise UsageError(
            f"--ema chooses between averaged and plain weights in one file, but {quoted(path)} holds one "
            "set of weights.",
            hint="Leave --ema out, or name the file that holds the averaged weights.",
        )
