"""Sums of many forked ranks through shared memory: a process group of torch for tests, for which gloo takes too long.

Gloo takes a quarter of a second for one sum of 64 ranks on two processors, this one a few milliseconds.
"""

import ctypes
import mmap
import sys
import tempfile
from typing import Any

import torch
from torch import Tensor, distributed
from torch._C._distributed_c10d import ReduceOp, _create_work_from_future
from torch.futures import Future

SLOT = 1 << 16
"""Bytes that a rank can send at once."""
BARRIER, SHARED = 64, 1
"""Bytes kept for a barrier of POSIX threads, and its attribute: processes share it."""
ADD, LARGEST = int(ReduceOp.SUM), int(ReduceOp.MAX)


class Memory:
    """What ranks share, made before they are forked."""

    def __init__(self, count: int) -> None:
        self.count, self.round = count, 0
        self.store = tempfile.NamedTemporaryFile()  # noqa: SIM115 - until all are gone
        self.pages = mmap.mmap(-1, BARRIER + 2 * count * SLOT)
        self.library, attribute = ctypes.CDLL(None), ctypes.create_string_buffer(BARRIER)
        self.barrier = ctypes.byref(ctypes.c_char.from_buffer(self.pages))
        assert not self.library.pthread_barrierattr_init(attribute)
        assert not self.library.pthread_barrierattr_setpshared(attribute, SHARED)
        assert not self.library.pthread_barrier_init(self.barrier, attribute, count)

    def exchanged(self, index: int, own: Tensor) -> Tensor:
        """What every rank has sent, in their order: [ranks, *shape], until the next call but one.

        The halves of the memory take turns. So a rank writes again where the others have read before the last barrier.
        """
        sent = own.detach().contiguous()
        assert sent.nbytes <= SLOT
        self.round = 1 - self.round
        begin, width = BARRIER + self.round * self.count * SLOT, SLOT // sent.element_size()
        held = torch.frombuffer(self.pages, dtype=sent.dtype, count=self.count * width, offset=begin)
        slots = held.view(self.count, width)[:, : sent.numel()]
        slots[index] = sent.flatten()
        self.library.pthread_barrier_wait(self.barrier)
        return slots.unflatten(1, sent.shape) if sent.dim() else slots.squeeze(1)


def done(tensors: Any) -> Any:
    """Work that is over."""
    future: Future[Any] = Future()
    future.set_result(tensors)
    return _create_work_from_future(future)


class SharedMemoryGroup(distributed.ProcessGroup):
    """The collectives that the program and DTensor call, on the CPU."""

    def __init__(self, memory: Memory, index: int) -> None:
        super().__init__(index, memory.count)
        self.memory, self.index = memory, index

    def getBackendName(self) -> str:
        """The name it is registered by."""
        return "shared"

    @property
    def group_name(self) -> str:
        """The name by which torch finds it again."""
        return str(distributed.distributed_c10d._world.pg_names[self])

    def allreduce(self, tensors: list[Tensor], options: Any = None) -> Any:
        """The sum or the largest, in place; the same bits on every rank."""
        for tensor in tensors:
            tensor.copy_(self._combined(tensor, ADD if options is None else int(options.reduceOp.op)))
        return done(tensors)

    def allreduce_coalesced(self, tensors: list[Tensor], options: Any = None) -> Any:
        """The same of several tensors."""
        return self.allreduce(tensors, options)

    def barrier(self, options: Any = None) -> Any:
        """Every rank is there."""
        return self.allreduce([torch.zeros(1)])

    def broadcast(self, tensors: list[Tensor], options: Any) -> Any:
        """What one of them has."""
        for tensor in tensors:
            tensor.copy_(self.memory.exchanged(self.index, tensor)[options.rootRank])
        return done(tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any = None) -> Any:
        """What every rank has, one by one."""
        for places, own in zip(outputs, inputs, strict=True):
            for place, part in zip(places, self.memory.exchanged(self.index, own), strict=True):
                place.copy_(part)
        return done(outputs)

    def all_gather_single(self, output: Tensor, own: Tensor, options: Any = None) -> Any:
        """What every rank has, one behind the other."""
        output.copy_(self.memory.exchanged(self.index, own).flatten(0, 1))
        return done([output])

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], options: Any = None) -> Any:
        """The same of several tensors."""
        return [self.all_gather_single(*pair) for pair in zip(outputs, inputs, strict=True)][-1]

    def reduce_scatter_single(self, output: Tensor, own: Tensor, options: Any = None) -> Any:
        """The rank's part of the sum of what every rank has."""
        output.copy_(torch.chunk(self._combined(own, ADD), self.memory.count)[self.index])
        return done([output])

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], options: Any = None) -> Any:
        """The same of several tensors."""
        return [self.reduce_scatter_single(*pair) for pair in zip(outputs, inputs, strict=True)][-1]

    def _combined(self, own: Tensor, how: int) -> Tensor:
        assert how in (ADD, LARGEST)
        parts = self.memory.exchanged(self.index, own)
        return parts.sum(0) if how == ADD else parts.amax(0)


def use(memory: Memory, index: int) -> None:
    """From now on what this process joins is this group, in the place of gloo."""
    distributed.Backend.register_backend("shared", lambda *_: SharedMemoryGroup(memory, index), devices=["cpu"])
    join = distributed.init_process_group
    # one of TCP asks the network for the name of each rank's machine, and may wait five seconds for the answer
    store = distributed.FileStore(memory.store.name, memory.count)
    sys.modules["torch.distributed.rendezvous"].rendezvous = lambda *_, **given: iter([(store, index, memory.count)])

    def initialise(_: str, **given: Any) -> None:
        join("shared", **given)

    distributed.init_process_group = initialise
