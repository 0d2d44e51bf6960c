"""The processes that make one measurement together: which of them this is, what they add up and agree on.

They are torch's: a launcher or `srun` starts them, and torch.distributed carries the sums.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fromage_cli import stopping
from fromage_cli.errors import FromageError, MismatchError, OutOfMemory, ResourceError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

GATHERING = timedelta(seconds=120)
"""How long a rank waits for the others to begin."""
PATIENCE = timedelta(minutes=30)
"""How long it waits for a sum: a slow rank is no lost one."""
FAREWELL, LOOK = 10.0, 0.05
"""Seconds that the first rank waits until the others know why it ends, and from one look to the next."""
PACKED = 1 << 20
"""Elements up to which several tensors are added up in one reduction."""
FIRST_PORT, PORTS = 20_000, 20_000
"""Ports of which a SLURM step takes one, by the number of its job and step."""
OUT_OF_MEMORY, FAILED = 1 << 62, 1 << 61
"""What a rank says in place of its next sum."""
ENDED_BY_SIGNALS = (130, 143)
LAUNCHED = "FROMAGE_LAUNCHED"
"""Set in ranks that `--nproc` started: their launcher says what became of them. It names a file that the first rank
makes once it says itself why it ends."""


class RankLost(FromageError):
    """Another rank has ended, and no sum can be made without it."""

    exit_code = 7
    code = "rank-lost"
    left_word = False
    """Whether it said why."""


class OutOfMemoryOfRanks(OutOfMemory):
    """Memory ran out on one of several ranks, and all have heard of it."""

    def __init__(self) -> None:
        super().__init__("Memory ran out on one of the ranks.", "Use a smaller batch, or give --micro-batch N.")


class FailedOnRanks(MismatchError):
    """An evaluation that failed, which all ranks have heard of."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that were started together."""

    index: int
    count: int
    local: int = 0
    """Its number on its own machine."""
    address: str = ""
    """Of the first rank's machine; empty where the environment tells it to torch."""
    port: int = 0

    @classmethod
    def found(cls, environment: Mapping[str, str]) -> Place | None:
        """As a launcher of torch's or `srun` tells it; None where a process is alone.

        Within `sbatch` itself, without `srun`, no other rank ever begins: then it is alone too.
        """
        if "RANK" in environment and "WORLD_SIZE" in environment:
            index, count, local = (whole_number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
            return cls(index, count, local) if count > 1 else None
        if "SLURM_PROCID" in environment and "SLURM_LAUNCH_NODE_IPADDR" in environment:
            tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
            names = ("SLURM_PROCID", tasks, "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID")
            index, count, local, job, step = (whole_number(environment, name) for name in names)
            address = environment.get("MASTER_ADDR") or environment["SLURM_LAUNCH_NODE_IPADDR"]
            port = whole_number(environment, "MASTER_PORT") or FIRST_PORT + (31 * job + step) % PORTS
            return cls(index, count, local, address, port) if count > 1 else None
        return None


def whole_number(environment: Mapping[str, str], name: str) -> int:
    """Return a number of the environment, 0 where it is not set; raises UsageError for what is none."""
    text = environment.get(name, "0")
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r} in the environment; expected a whole number.", "Start with --nproc 1.")
    return int(text)


@dataclass(frozen=True)
class Ranks:
    """The processes that share a measurement; by default this one is alone."""

    index: int = 0
    count: int = 1
    local: int = 0
    store: Any = field(default=None, compare=False, repr=False)
    """Where a rank leaves word for the others."""
    sharded: bool = False
    """Whether each holds a part of every weight, so that all must take the same way through the network."""

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes."""
        return self.index == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def part(self, rows: int) -> tuple[int, int]:
        """The first and the end of the rows that this rank evaluates, of so many; there may be none."""
        return rows * self.index // self.count, rows * (self.index + 1) // self.count

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Let each tensor become its sum over all ranks, in place; small ones share a reduction.

        One that is spread over ranks was added up when it came about. The sums are the same bits on every rank. Raises
        RankLost where another rank has ended.
        """
        import torch

        if not self.several:
            return
        packed: list[Tensor] = []
        tensors = [tensor for tensor in tensors if not hasattr(tensor, "placements")]
        for place, tensor in enumerate(tensors):
            if tensor.numel() < PACKED:
                packed.append(tensor)
            else:
                self._reduce(tensor)
            following = tensors[place + 1] if place + 1 < len(tensors) else None
            full = sum(one.numel() for one in packed) >= PACKED
            if packed and (following is None or full or following.dtype != packed[0].dtype):
                flat = torch.cat([one.reshape(-1) for one in packed])
                self._reduce(flat)
                for one, part in zip(packed, torch.split(flat, [one.numel() for one in packed]), strict=True):
                    one.copy_(part.view(one.shape))
                packed = []

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all ranks."""
        if not self.several:
            return list(values)
        import torch

        total = torch.tensor(values, dtype=torch.float64)
        self._reduce(total)
        return [float(value) for value in total]

    def of_each(self, number: float) -> list[float]:
        """Return the number of every rank, in their order; a rank that has to decide by its own takes all of them."""
        mine = [0.0] * self.count
        mine[self.index] = number
        return self.sums(mine)

    def any(self, flag: bool) -> bool:
        """Return whether it is so on any rank."""
        return self.sums([float(flag)])[0] > 0.0

    def require_same(self, what: str, number: int) -> None:
        """Raise MismatchError on every rank where a number is not the same on all of them.

        `what`: what it is the checksum of, as in "batch". Numbers are below 2^32.
        """
        numbers = self.of_each(float(number))
        if others := [rank for rank, one in enumerate(numbers) if one != numbers[0]]:
            raise MismatchError(
                f"Rank {others[0]} has another {what} than rank 0.",
                "Give all ranks the same files and options, and let --batch code draw with a fixed seed.",
            )

    def require_next(self, number: int) -> None:
        """Raise MismatchError on every rank where they are not about to make the same sum; `number`: which one.

        Raises OutOfMemory where a rank says OUT_OF_MEMORY, and MismatchError where one says FAILED.
        """
        import torch
        from torch import distributed

        ends = torch.tensor([number, -number])  # one small sum takes fewer rounds than a list of all numbers
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
        largest, least = int(ends[0]), -int(ends[1])
        if largest == OUT_OF_MEMORY != number:
            raise OutOfMemoryOfRanks
        if largest == FAILED != number:
            raise self.failure_told()
        if number not in (OUT_OF_MEMORY, FAILED) and largest != least:
            raise FailedOnRanks(
                "Ranks have gone different ways through the network, so its weights cannot be put together.",
                "A network that chooses layers by its data cannot be sharded. Compute without --shard.",
            )

    def tell_failure(self, error: MismatchError) -> None:
        """Leave word of an evaluation that failed, for ranks on which it did not."""
        self.store.set("failure", json.dumps({"rank": self.index, "message": error.message, "hint": error.hint}))

    def failure_told(self) -> FailedOnRanks:
        """Return the error for a rank on which the evaluation did not fail itself: what the other one said."""
        told = json.loads(self.store.get("failure"))
        return FailedOnRanks(f"Rank {told['rank']}: {told['message']}", told["hint"])

    def say_farewell(self, error: FromageError) -> None:
        """Tell the other ranks why this one ends, and let their sums fail; the first rank waits until they know.

        One that a signal ends may be within a sum, which nothing else takes it out of: it ends here.
        """
        if not self.several or isinstance(error, RankLost):
            return
        if error.exit_code in ENDED_BY_SIGNALS:
            if not self.leads:
                os._exit(error.exit_code)
            return
        from torch import distributed

        with suppress(Exception):  # the others may be gone, and the store with them
            word = {"rank": self.index, "message": error.message, "hint": error.hint, "code": error.exit_code}
            if self.store.add("ended", 1) == 1:
                self.store.set("reason", json.dumps(word))
            self.store.set(f"known {self.index}", "")
            distributed.destroy_process_group()
            others, until = [f"known {rank}" for rank in range(1, self.count)], time.monotonic() + FAREWELL
            while self.leads and not self.store.check(others) and time.monotonic() < until:
                time.sleep(LOOK)

    def heard(self) -> Mapping[str, Any] | None:
        """Return why a rank has ended, by its own word; None where it left none."""
        with suppress(Exception):
            self.store.set(f"known {self.index}", "")
            if self.store.check(["reason"]):
                told: Mapping[str, Any] = json.loads(self.store.get("reason"))
                return told
        return None

    def _reduce(self, tensor: Tensor) -> None:
        from torch import distributed

        if stopping.interrupted():
            stopping.raise_reason()
        try:
            if self.sharded:
                self.require_next(0)
            distributed.all_reduce(tensor)
        except RuntimeError as error:
            raise self.lost(error) from error

    def lost(self, error: RuntimeError) -> RankLost:
        """Return the error to raise where a sum with the others has failed: why they ended, where they said so.

        Raises the reason to stop, where this rank has one as well.
        """
        stopping.raise_reason()
        told = self.heard()
        if told is None:
            found = RankLost("Another rank ended without a word.", "Look whether its machine lacked memory.")
        else:
            found = RankLost(f"Rank {told['rank']}: {told['message']}", str(told["hint"]))
            found.exit_code, found.left_word = int(told["code"]), True
        return found


ALONE = Ranks()
_CURRENT: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)
_WITHIN: ContextVar[ExitStack] = ContextVar("within")


def current() -> Ranks:
    """Return the ranks that this process has joined; it alone where it has joined none."""
    return _CURRENT.get()


@contextmanager
def scope() -> Iterator[None]:
    """One run of the program: whatever ranks it joins are left at the end."""
    token, within = _CURRENT.set(ALONE), ExitStack()
    held = _WITHIN.set(within)
    try:
        with within:
            yield
    finally:
        several = current().several
        _WITHIN.reset(held)
        _CURRENT.reset(token)
        if several:
            from torch import distributed

            with suppress(Exception):  # it may have been left before, in haste
                distributed.destroy_process_group()


def shard(*within: AbstractContextManager[object]) -> Ranks:
    """From now on each rank holds a part of every weight; what this is done within lasts as long as `scope`."""
    _CURRENT.set(replace(current(), sharded=True))
    for context in within:
        _WITHIN.get().enter_context(context)
    return current()


def take_place(place: Place | None) -> None:
    """From now on this is one of several ranks that have not met yet, of which the first speaks; None: it is alone."""
    _CURRENT.set(ALONE if place is None else Ranks(place.index, place.count, place.local))


def join(place: Place) -> Ranks:
    """From now on this process and the others that were started with it make one measurement.

    Raises ResourceError where the others do not begin.
    """
    import torch
    from torch import distributed
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    take_place(place)
    if place.address:
        os.environ |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(place.port)}
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, *_ = next(rendezvous("env://", place.index, place.count, timeout=GATHERING))
        own = PrefixStore("fromage-diag", store)
        distributed.init_process_group(backend, store=own, rank=place.index, world_size=place.count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"Rank {place.index} of {place.count} did not find the others: {str(error).splitlines()[0][:200]}",
            "Start all ranks at once, or give --nproc 1 to compute alone.",
        ) from error
    found = Ranks(place.index, place.count, place.local, own)
    _CURRENT.set(found)
    return found
