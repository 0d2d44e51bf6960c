"""The files of one ZeRO checkpoint: which there are, whether all of them are there, and what each holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.formats.content import kind_of
from fromage_cli.checkpoints.formats.torch_file import load_file
from fromage_cli.checkpoints.names.library_files import MODEL_STATES
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.storage.files import FileVersion, names_in, quoted
from fromage_cli.errors import InputError

OPTIMIZER_STATES = re.compile(r"^(?:(?:bf16|fp16)_)?zero_pp_rank_([0-9]+)_mp_rank_([0-9]+)_optim_states\.pt$")
MASTER_3 = "fp32_flat_groups"
"""Where stage 3 keeps a rank's float32 weights."""


def is_model_states(path: Path) -> bool:
    """Return whether a file is a ZeRO checkpoint's description of the model, and the ranks' parts stand beside it."""
    return bool(MODEL_STATES.match(path.name)) and any(map(OPTIMIZER_STATES.match, names_in(path.parent)))


@dataclass(frozen=True)
class ZeroFiles:
    """What all files of one checkpoint hold."""

    path: Path
    stage: int
    """2 stands for 1 and 2, which are laid out alike."""
    models: tuple[Mapping[str, Any], ...]
    """Of one rank, in stage 3 of all."""
    states: tuple[Mapping[str, Any], ...]
    """Of all ranks."""
    model_files: tuple[Path, ...]
    state_files: tuple[Path, ...]

    @property
    def optimizers(self) -> list[Mapping[str, Any]]:
        """Return what each rank saved of the optimizer, of those that did."""
        kept = "optimizer_state_dict" if self.stage == 3 else "base_optimizer_state"
        return [saved for state in self.states if isinstance(saved := state.get(kept), Mapping)]

    def damaged(self, reason: str) -> InputError:
        """Return the error for files that do not belong together."""
        return InputError(
            f"{quoted(self.path.parent)} is not a complete ZeRO checkpoint: {reason}.",
            hint=(
                "Files of different saves were mixed, or this version of DeepSpeed writes them differently. "
                "Run zero_to_fp32.py beside it to write the weights out."
            ),
        )


def read_files(path: Path) -> ZeroFiles:
    """Read the description of the model and the parts of all ranks; InputError where some are missing."""
    names = sorted(names_in(path.parent))
    models = _by_rank(path.parent, names, MODEL_STATES)
    parts = _by_rank(path.parent, names, OPTIMIZER_STATES)
    allowance = Allowance(sum(FileVersion.of(file).size for file in (*models, *parts)))
    states = []
    for file in parts:
        held = _dictionary(file, allowance).get("optimizer_state_dict")
        states.append(held if isinstance(held, Mapping) else {})
    stage = 3 if any(MASTER_3 in state for state in states) else 2
    describing = models if stage == 3 else models[:1]
    described = tuple(_dictionary(file, allowance) for file in describing)
    found = ZeroFiles(path, stage, described, tuple(states), tuple(describing), tuple(parts))
    count = states[0].get("partition_count")  # some versions say it group by group
    counts = [number for number in (count if isinstance(count, list) else [count]) if type(number) is int]
    expected = max(counts, default=0 if isinstance(count, list) else None)
    if expected is not None and expected != len(states):
        raise InputError(
            f"{quoted(path.parent)} is incomplete: {len(states)} of {expected} optim_states files are "
            "there, one for each rank.",
            hint="Copy the missing files beside them. Every rank writes its own.",
        )
    if stage == 3 and len(models) != len(states):
        raise found.damaged(f"{len(models)} model_states files and {len(states)} optim_states files")
    return found


def _by_rank(directory: Path, names: list[str], pattern: re.Pattern[str]) -> list[Path]:
    """Return the files of one kind by data-parallel rank; more than one model-parallel rank raises InputError."""
    found = [(match, directory / match[0]) for name in names if (match := pattern.match(name))]
    if others := [path.name for match, path in found if int(match[2])]:
        raise InputError(
            f"{quoted(directory)} holds tensor- or pipeline-parallel shards ({listed(others)}). They "
            "cannot be merged without the model's code.",
            hint=("Merge them with the training code (DeepSpeed's ds_to_universal.py, or the trainer's own export)."),
        )
    return [path for _, path in sorted(found, key=lambda pair: int(pair[0][1] or 0))]


def _dictionary(path: Path, allowance: Allowance) -> Mapping[str, Any]:
    """Return the dictionary that a file holds; an empty one where it holds anything else."""
    root = load_file(path, kind_of(path), allowance)
    return root if isinstance(root, Mapping) else {}
