"""Tensors that every tensor-parallel rank of one checkpoint holds, in files beside that which is read.

Megatron: mp_rank_TT/model_optim_rng.pt or mp_rank_TT_PPP/…; DeepSpeed without ZeRO: mp_rank_TT_model_states.pt. TT is
the tensor-parallel rank. LayerNorm, routers and embeddings of positions are not cut over the ranks.
Neither are the biases of layers that are cut along their input.
Source: megatron/core/transformer and megatron/training/checkpointing.py.
"""

import re
from contextlib import suppress
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Contents, Copy, Replica
from fromage_cli.checkpoints.formats.content import PICKLED_FORMATS, kind_of
from fromage_cli.checkpoints.formats.torch_file import read_torch
from fromage_cli.checkpoints.names.library_files import MOST_SHARDS
from fromage_cli.checkpoints.nested.choosing import Choice
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.storage.files import FileVersion, names_in
from fromage_cli.errors import UsageError

RANK_DIRECTORY = re.compile(r"^mp_rank_([0-9]{2,4})((?:_[0-9]{3})*)$")
RANK_FILE = re.compile(r"^mp_rank_([0-9]{2,4})(_model_states\.pt)$")
ON_EVERY_RANK = re.compile(
    r"^(?!.*\.(?:local_)?experts\.).*(?:layer_?norm\.(?:weight|bias)|layer_norm_(?:weight|bias)"
    r"|position_embeddings\.weight|router\.weight|\.(?:dense|dense_4h_to_h|linear_proj|linear_fc2)\.bias)$"
)
"""Names of Megatron's that no rank has for itself, of today's models and of the older ones; experts are cut apart."""


def in_other_ranks(weights: Path, contents: Contents) -> tuple[Replica, ...]:
    """Return what the files of other tensor-parallel ranks hold too; `contents` are those of `weights`.

    Raises FromageError where such a file cannot be read.
    """
    shared = {name: entry for name, entry in contents.entries.items() if ON_EVERY_RANK.search(name)}
    copies: dict[str, list[Copy]] = {name: [] for name in shared}
    files = files_of_other_ranks(weights) if shared and contents.format in PICKLED_FORMATS else []
    allowance = Allowance(sum(FileVersion.of(file).size for file in files))
    for file in files:
        with suppress(UsageError):  # another rank may lack what is chosen here
            other = read_torch(file, kind_of(file), Choice(contents.key), allowance)
            for name, own in shared.items():
                entry = other.entries.get(name)
                if entry is not None and entry.shape == own.shape and other.key == contents.key:
                    copies[name].append(Copy(other.stored(name), (file,)))
    return tuple(
        Replica(name, (Copy(contents.stored(name), (weights,)), *others)) for name, others in copies.items() if others
    )


def files_of_other_ranks(weights: Path) -> list[Path]:
    """Return the files in which other tensor-parallel ranks of the same pipeline stage keep theirs."""
    whole = weights.absolute()
    for place, pattern, inside in ((whole, RANK_FILE, ""), (whole.parent, RANK_DIRECTORY, whole.name)):
        own = pattern.match(place.name)
        if own is None:
            continue
        others = [
            place.with_name(name)
            for name in sorted(names_in(place.parent))
            if (found := pattern.match(name)) and found[1] != own[1] and found[2] == own[2]
        ]
        files = [other / inside if inside else other for other in others[:MOST_SHARDS]]
        return [file for file in files if file.is_file()]
    return []
