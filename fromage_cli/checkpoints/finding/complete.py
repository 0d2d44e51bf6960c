"""Whether a checkpoint is completely written, found out without reading data."""

from pathlib import Path

from fromage_cli.checkpoints.formats.content import kind_of
from fromage_cli.checkpoints.formats.distributed import check_shards, is_metadata
from fromage_cli.checkpoints.formats.distributed_metadata import read_metadata
from fromage_cli.checkpoints.formats.distributed_safetensors import files_of_ranks, is_shard_of_rank
from fromage_cli.checkpoints.formats.safetensors_file import read_header
from fromage_cli.checkpoints.formats.sharded import is_index, read_index
from fromage_cli.errors import InputError


def why_incomplete(path: Path) -> InputError | None:
    """Return what is wrong with a weights file that is not completely written; None where it is."""
    try:
        check_complete(path)
    except InputError as error:
        return error
    return None


def check_complete(path: Path) -> None:
    """Raise InputError when a weights file, or a shard that an index names, is missing or cut off.

    A PyTorch file is complete when its table of contents, which is written last, can be read; files in the older format
    that has none are taken as complete.
    """
    if is_index(path):
        for shard in read_index(path).shards:
            check_complete(shard)
    elif is_metadata(path):
        check_shards(path, read_metadata(path))
    elif is_shard_of_rank(path):
        for file in files_of_ranks(path):
            read_header(file)
    elif kind_of(path) == "safetensors":
        read_header(path)
