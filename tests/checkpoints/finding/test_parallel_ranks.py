"""What tensor-parallel ranks share, by Megatron's names, in its directories and in DeepSpeed's files."""

from pathlib import Path

import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.finding.parallel_ranks import ON_EVERY_RANK, files_of_other_ranks
from fromage_cli.checkpoints.reading.replicas import comparable, compare_replicas
from fromage_cli.errors import InputError

SHARED = (
    "decoder.layers.0.input_layernorm.weight",
    "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
    "decoder.layers.0.self_attention.linear_proj.bias",
    "decoder.layers.0.self_attention.q_layernorm.weight",
    "decoder.layers.0.mlp.router.weight",
    "decoder.layers.0.mlp.linear_fc2.bias",
    "decoder.final_layernorm.bias",
    "embedding.position_embeddings.weight",
    "language_model.encoder.layers.0.self_attention.dense.bias",
    "language_model.encoder.layers.0.mlp.dense_4h_to_h.bias",
)
CUT = (
    "embedding.word_embeddings.weight",
    "decoder.layers.0.self_attention.linear_proj.weight",
    "decoder.layers.0.self_attention.linear_qkv.bias",
    "decoder.layers.0.mlp.linear_fc1.bias",
    "decoder.layers.0.mlp.experts.local_experts.0.linear_fc2.bias",
    "language_model.encoder.layers.0.mlp.dense_h_to_4h.bias",
    "decoder.layers.0.mixer.norm.weight",
)


@pytest.mark.parametrize("name", [*SHARED, *CUT])
def test_names_that_every_rank_has(name: str) -> None:
    assert bool(ON_EVERY_RANK.search(name)) == (name in SHARED)


def save(file: Path, rank: int) -> Path:
    """One rank's part: what is shared is equal, what is cut is not."""
    torch.manual_seed(0)
    shared = {name: torch.randn(4) for name in SHARED}
    torch.manual_seed(1 + rank)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {**shared, **{name: torch.randn(4) for name in CUT}}, "iteration": 9}, file)
    return file


@pytest.mark.parametrize("place", ["mp_rank_{:02}/model_optim_rng.pt", "mp_rank_{:02}_001/model_optim_rng.pt"])
def test_shared_tensors_of_megatrons_ranks(tmp_path: Path, place: str) -> None:
    first, second, third = (save(tmp_path / place.format(rank), rank) for rank in range(3))
    save(tmp_path / "mp_rank_01_007" / "model_optim_rng.pt", 5)  # of another pipeline stage
    replicas = open_checkpoint(first).replicas
    assert {one.name for one in replicas} == set(SHARED)
    assert all(copy.files[0].name == "model_optim_rng.pt" for one in replicas for copy in one.copies)
    assert {len(one.copies) for one in replicas} == {3}
    assert not any(one.apart for one in compare_replicas(comparable(replicas)))

    content = torch.load(third)
    content["model"][SHARED[3]][2] *= 2.0
    torch.save(content, third)
    (found,) = [one for one in compare_replicas(comparable(open_checkpoint(first).replicas)) if one.apart]
    assert (found.replica.name, found.difference.differ, found.difference.largest) == (SHARED[3], 1, 0.5)
    assert found.files == (first, third)
    second.unlink()
    assert files_of_other_ranks(first) == [third]


def test_deepspeed_without_zero(tmp_path: Path) -> None:
    for rank in range(2):
        shared = {SHARED[0]: torch.ones(3), CUT[0]: torch.full((3,), float(rank))}
        torch.save({"module": shared, "global_steps": 3}, tmp_path / f"mp_rank_0{rank}_model_states.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.key == "module"
    assert [one.name for one in checkpoint.replicas] == [SHARED[0]]


def test_what_a_rank_has_otherwise_is_left_out(tmp_path: Path) -> None:
    first, second = (save(tmp_path / f"mp_rank_0{rank}" / "m.pt", rank) for rank in range(2))
    torch.save({"model": {SHARED[0]: torch.ones(2, 2), SHARED[1]: torch.ones(4)}}, second)
    assert [one.name for one in open_checkpoint(first).replicas] == [SHARED[1]]
    torch.save({"other": {SHARED[1]: torch.ones(4)}}, second)
    assert open_checkpoint(first, "model").replicas == ()
    second.write_bytes(b"nothing that can be read")
    with pytest.raises(InputError):
        _ = open_checkpoint(first).replicas
    assert len(list(open_checkpoint(first).items())) == len(SHARED) + len(CUT)  # reading does not need the others


def test_no_other_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = save(tmp_path / "run" / "mp_rank_00" / "m.pt", 0)
    assert open_checkpoint(alone).replicas == ()
    assert files_of_other_ranks(save(tmp_path / "plain.pt", 0)) == []
    save(tmp_path / "run" / "mp_rank_01" / "m.pt", 1)
    monkeypatch.chdir(alone.parent)
    assert len(open_checkpoint("m.pt").replicas) == len(SHARED)
