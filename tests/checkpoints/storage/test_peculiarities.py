import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.layers import lasting_layers
from fromage_cli.checkpoints.storage.peculiarities import DEQUANTISE, WHOLE, remedy
from fromage_cli.errors import UsageError


def test_what_to_do():
    assert remedy(["int8", "a DTensor float32"]) == WHOLE
    assert "to_dense" in remedy(["sparse float32"])
    assert remedy(["GPTQ int32"]) == DEQUANTISE


@pytest.fixture
def parts(tmp_path):
    """What torch.save leaves of a network that FSDP2 cut over ranks."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        torch.save(model.state_dict(), tmp_path / "rank0.pt")
        torch.save({**model.state_dict(), "head.weight": torch.randn(4, 4)}, tmp_path / "mixed.pt")
    finally:
        dist.destroy_process_group()
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_part_of_one_rank_is_named(parts):
    found = open_checkpoint(parts / "rank0.pt")
    with pytest.raises(UsageError, match=r"first '0\.weight', a DTensor float32") as caught:
        lasting_layers([found])
    assert "one rank's part" in caught.value.hint and "torch.distributed.checkpoint.save" in caught.value.hint
    mixed = open_checkpoint(parts / "mixed.pt")
    assert lasting_layers([mixed])[0] == ("head.weight",)
    assert any("Did not read 4 tensors" in note and "one rank's part" in note for note in mixed.notes)
