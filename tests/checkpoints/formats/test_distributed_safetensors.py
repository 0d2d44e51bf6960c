import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.finding.series import check_complete
from fromage_cli.checkpoints.reading.replicas import Difference, compare_replicas
from fromage_cli.errors import InputError

WHOLE = torch.arange(15.0).reshape(5, 3)
NAME = "shard-0000{}-model-00001-of-00001.safetensors"


def write(directory, rank, rows, offsets, **other):
    metadata = {"DCP_SHARDING_INFO": json.dumps({"w": {"saved_offsets": offsets}})} if offsets is not None else {}
    save_file({"w": WHOLE[rows].contiguous(), **other}, directory / NAME.format(rank), {"format": "pt", **metadata})


@pytest.fixture
def ranks(tmp_path):
    for rank, (begin, end) in enumerate([(0, 2), (2, 4), (4, 5)], start=1):
        write(tmp_path, rank, slice(begin, end), [begin, 0])
    return tmp_path


def test_the_files_of_all_ranks_are_one_checkpoint(ranks):
    for path in (ranks, ranks / NAME.format(2)):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == "safetensors-distributed"
        assert torch.equal(checkpoint.tensor("w"), WHOLE)
        assert "from 3 files" in checkpoint.notes[0]
    check_complete(ranks / NAME.format(1))


def test_a_missing_rank_is_named(ranks):
    (ranks / NAME.format(2)).unlink()
    for act in (open_checkpoint, lambda path: check_complete(path / NAME.format(1))):
        with pytest.raises(InputError, match="of 1 rank are missing, first that of rank 2"):
            act(ranks)


@pytest.mark.parametrize(
    ("rows", "offsets", "words"),
    [
        (slice(2, 4), None, "is not JSON"),
        (slice(2, 4), [2], "does not say where"),
        (slice(2, 4), [-2, 0], "does not say where"),
        (slice(2, 4), [True, 0], "does not say where"),
        (slice(2, 4), [1, 0], "overlap"),
        (slice(2, 3), [2, 0], "not have its number of elements"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(ranks, rows, offsets, words):
    write(ranks, 2, rows, offsets)
    with pytest.raises(InputError, match=words):
        open_checkpoint(ranks)


def test_the_consolidated_weights_go_before_their_shards(ranks, tmp_path):
    (tmp_path / "run" / "sharded").mkdir(parents=True)
    for rank in (1, 2, 3):
        shutil.copy(ranks / NAME.format(rank), tmp_path / "run" / "sharded")
    save_file({"w": WHOLE}, tmp_path / "run" / "model.safetensors")
    assert open_checkpoint(tmp_path / "run").format == "safetensors"


def test_one_piece_in_the_files_of_two_ranks_is_a_replica(ranks):
    write(ranks, 4, slice(2, 4), [2, 0])
    checkpoint = open_checkpoint(ranks)
    assert torch.equal(checkpoint.tensor("w"), WHOLE)
    (replica,) = checkpoint.replicas
    assert (replica.name, [copy.files[0].name[:11] for copy in replica.copies]) == ("w", ["shard-00002", "shard-00004"])
    assert compare_replicas([replica])[0].difference == Difference()
    metadata = {"DCP_SHARDING_INFO": json.dumps({"w": {"saved_offsets": [2, 0]}})}
    save_file({"w": WHOLE[2:4] * 4.0}, ranks / NAME.format(4), metadata)
    (found,) = compare_replicas(open_checkpoint(ranks).replicas)
    assert found.difference == Difference(6, 0.75)
    assert torch.equal(open_checkpoint(ranks).tensor("w"), WHOLE)
