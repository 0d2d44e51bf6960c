"""Real ranks that are forked from the process of the tests: none imports torch again, and 64 of them fit into it."""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch._dynamo  # DTensor imports it at its first use: here once, and not in each rank

from fromage_cli import ranks
from tests import shared_memory_group

LIMIT = 120.0
"""Seconds after which ranks that still run are killed."""


def run_ranks(
    count: int, function: Callable[..., Any], *args: Any, limit: float = LIMIT, through_memory: bool = False
) -> list[Any]:
    """What `function(*args)` gives in each of so many ranks, in their order; it has to be of plain objects.

    `through_memory`: what they send to each other goes through shared memory, and not through gloo.

    Raises AssertionError with the traceback of the first rank that failed or ended, and where the limit of seconds is
    reached. No rank outlives the call.
    """
    forked = multiprocessing.get_context("fork")
    port, until = free_port(), time.monotonic() + limit
    memory = shared_memory_group.Memory(count) if through_memory else None
    ends = [forked.Pipe(duplex=False) for _ in range(count)]
    processes = [
        forked.Process(target=_run, args=(index, count, port, sender, memory, function, args), daemon=True)
        for index, (_, sender) in enumerate(ends)
    ]
    found: dict[int, Any] = {}
    try:
        for process in processes:
            process.start()
        for _, sender in ends:
            sender.close()
        waiting = {receiver: index for index, (receiver, _) in enumerate(ends)}
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, until - time.monotonic()))
            assert ready, f"ranks {sorted(waiting.values())} of {count} still ran after {limit:g} seconds"
            for receiver in ready:
                index = waiting.pop(receiver)  # type: ignore[call-overload]
                found[index] = _received(index, receiver)  # type: ignore[arg-type]
    finally:
        started = [process for process in processes if process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join()
    return [found[index] for index in range(count)]


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def _received(index: int, receiver: Connection) -> Any:
    try:
        failure, answer = receiver.recv()
    except EOFError:
        failure, answer = "It was ended without a word.", None
    assert failure is None, f"rank {index}: {failure}"
    return answer


def _run(
    index: int,
    count: int,
    port: int,
    sender: Connection,
    memory: shared_memory_group.Memory | None,
    function: Callable[..., Any],
    args: Any,
) -> None:
    torch.set_num_threads(1)
    if memory is not None:
        shared_memory_group.use(memory, index)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # torch tells every rank's loss of every other
        os.dup2(nowhere.fileno(), 2)
    try:
        with ranks.scope():
            ranks.join(ranks.Place(index, count, index, "localhost", port))
            sender.send((None, function(*args)))
    except BaseException:
        sender.send((traceback.format_exc(), None))
    finally:
        sender.close()
        os._exit(0)  # nothing that the tests' process has registered for its own end
