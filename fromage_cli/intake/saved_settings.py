"""The settings that a checkpoint holds of its network, named where a network of another size was given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fromage_cli.errors import MismatchError

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint

SETTINGS = ("model_args", "model_config", "model_kwargs", "hyper_parameters", "hparams", "args", "cfg", "config")
"""What trainers call the settings of a network, those of a network alone first."""
NAMED = 3
"""Settings that a message names."""
_SIZE = re.compile(r"layer|head|emb|dim|hidden|width|depth|vocab|channel|feature|block|size", re.IGNORECASE)
_OF_TRAINING = re.compile(r"batch|step|iter|epoch|shuffle|buffer|world", re.IGNORECASE)


def naming_settings(error: MismatchError, checkpoint: Checkpoint) -> MismatchError:
    """The same error, with what to do told from the settings in the checkpoint, where it holds any sizes."""
    for name in (*SETTINGS, "config.json"):
        held = checkpoint.also_holds.get(name)
        sizes = sizes_in(held) if isinstance(held, Mapping) else {}
        if sizes:
            where = "Beside the checkpoint lies" if name == "config.json" else "The checkpoint holds"
            shown = ", ".join(f"{key} {size}" for key, size in list(sizes.items())[:NAMED])
            hint = (
                f"{where} {name} ({shown}{' …' if len(sizes) > NAMED else ''}): build the network from it.\n"
                "Let your function read it, as docs/getting-started.md shows, or give --model-arg."
            )
            return MismatchError(error.message, hint, error.details)
    return error


def sizes_in(held: Mapping[str, object]) -> dict[str, int]:
    """Sizes of a network among settings, by name: whole numbers above 0 whose names speak of one."""
    return {
        name: value
        for name, value in held.items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 0
        if _SIZE.search(name) and not _OF_TRAINING.search(name)
    }
