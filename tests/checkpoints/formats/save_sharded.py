"""Saves a small network sharded over two processes by FSDP2 (uneven shards), and its whole state beside it.

    python save_sharded.py DIRECTORY

writes distributed/ (nested), flattened/ (torchtitan's layout), safetensors/, columns/ and whole.pt.
"""

import multiprocessing
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

PROCESSES = 2
STEP = 7


def network() -> nn.Module:
    """7 rows over two processes, 3 over two, and a bias of one element that only the first holds."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3), nn.Linear(3, 1))


def save(rank: int, store: str, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    mesh = dist.init_device_mesh("cpu", (PROCESSES,))
    model = network()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    groups = [
        {"params": [p for p in model.parameters() if (p.dim() > 1) == flag], "weight_decay": decay}
        for flag, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(2):
        model(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "step": STEP}, checkpoint_id=directory / "distributed")
    flat = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))[1]
    trained = {"step": torch.tensor(STEP, dtype=torch.int32)}
    dcp.save({**weights, "optimizer": flat, "train_state": trained}, checkpoint_id=directory / "flattened")
    writer = dcp.HuggingFaceStorageWriter(str(directory / "safetensors"), save_distributed=True)
    dcp.save(weights, storage_writer=writer)
    wide = distribute_tensor(torch.randn(4, 5, dtype=torch.bfloat16), mesh, [Shard(1)])
    dcp.save({"wide": wide}, checkpoint_id=directory / "columns")
    columns = wide.full_tensor()
    whole = get_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        content = {"model": whole[0], "optimizer": whole[1], "step": STEP, "wide": columns}
        torch.save(content, directory / "whole.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as room:
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=save, args=(rank, f"{room}/store", directory)) for rank in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    sys.exit(any(worker.exitcode for worker in workers))
