import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading import chunks
from fromage_cli.checkpoints.reading.chunks import CHUNK, ChunkReader, Job, jobs_of, on_threads
from fromage_cli.errors import InputError


@given(st.integers(1, 3 * CHUNK))
def test_parts_cover_a_job(elements):
    parts = list(Job("w", "float32", 0, elements, 0, None).parts())
    assert [begin for begin, _ in parts] == [0, *(end for _, end in parts[:-1])] and parts[-1][1] == elements
    assert all(begin % CHUNK == 0 and end - begin <= CHUNK for begin, end in parts)


def opened(tmp_path, **tensors):
    save_file(tensors, tmp_path / "c.safetensors")
    return open_checkpoint(tmp_path / "c.safetensors")


def test_jobs_begin_where_a_chunk_of_the_tensor_does(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "JOB", 10)
    checkpoint = opened(tmp_path, w=torch.arange(21.0).reshape(7, 3), v=torch.arange(25.0).reshape(1, 25))
    jobs = list(jobs_of(checkpoint, ["w", "v"]))
    assert [(job.name, job.begin, job.elements) for job in jobs] == [
        ("w", 0, 10), ("w", 10, 10), ("w", 20, 1), ("v", 0, 10), ("v", 10, 10), ("v", 20, 5)
    ]  # fmt: skip
    read = [np.concatenate([part.copy() for part in ChunkReader().read(job)]).view("<f4") for job in jobs[:3]]
    assert np.concatenate(read).tolist() == list(range(21))


def test_results_come_in_order_from_threads_that_end(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "JOB", 1)
    monkeypatch.setattr(chunks, "threads", lambda: 3)
    checkpoint = opened(tmp_path, w=torch.ones(50))
    made, before = [], set(threading.enumerate())
    found = list(on_threads(jobs_of(checkpoint, ["w"]), lambda: made.append(1), lambda _, job: job.begin))
    assert [begin for _, begin in found] == list(range(50)) and 1 <= len(made) <= 3
    with pytest.raises(ZeroDivisionError):
        list(on_threads(jobs_of(checkpoint, ["w"]), lambda: 0, lambda zero, job: 1 // zero))
    assert set(threading.enumerate()) <= before


def test_a_file_that_changes_on_the_way_is_refused(tmp_path):
    checkpoint = opened(tmp_path, w=torch.ones(50))

    def spoil(_, job):
        save_file({"w": torch.ones(60)}, tmp_path / "c.safetensors")

    with pytest.raises(InputError, match="changed while it was being read"):
        list(on_threads(jobs_of(checkpoint, ["w"]), lambda: None, spoil))
