"""`--nproc`: the same command in several ranks on this machine, started by torch's own launcher."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from signal import Signals
from tempfile import TemporaryDirectory
from uuid import uuid4

from fromage_cli import stopping
from fromage_cli.errors import ResourceError
from fromage_cli.process_memory import available_memory
from fromage_cli.ranks import LAUNCHED, RankLost

LOGGERS = (
    *("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing"),
    *("torch.distributed.elastic.agent.server.api", "torch.multiprocessing.spawn"),
)

LEAST_MEMORY = 100 << 20
"""Bytes that a process with torch takes for itself, before it has read anything."""


@contextmanager
def interrupts_wait_in_children() -> Iterator[None]:
    """Let processes that are started within begin with Ctrl-C held back, until they can heed it.

    They inherit what the main thread holds back. Here another thread hears it, and Python tells the main one.
    """
    resource_tracker.ensure_running()  # it lets go of interrupts once it has started
    over = threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()


def require_memory(count: int) -> None:
    """Raise ResourceError where so many processes do not fit in memory, whatever they compute."""
    free = available_memory()
    if free is not None and count * LEAST_MEMORY > free:
        raise ResourceError(
            f"{count} processes take {count * LEAST_MEMORY / 1e6:,.0f} MB before they read anything, "
            f"and {free / 1e6:,.0f} MB are free.",
            "Give --nproc a smaller number: about one process for each device, or for each few cores.",
        )


def launch(entry: Callable[[Sequence[str]], int], words: Sequence[str], count: int) -> int:
    """Run `entry(words)` in so many ranks; the exit code of the first.

    Each gets its share of the processors, unless OMP_NUM_THREADS says otherwise. Raises RankLost where one was ended,
    and ResourceError where they do not fit in memory.
    """
    require_memory(count)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        start_method="spawn",
    )
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = {"OMP_NUM_THREADS": str(max(1, processors // count)), "THP_MEM_ALLOC_ENABLE": "1"}
    os.environ |= {name: os.environ.get(name, value) for name, value in own.items()}
    with TemporaryDirectory() as room:
        said = Path(room, "said")
        os.environ[LAUNCHED] = str(said)
        try:
            with interrupts_wait_in_children():
                codes = elastic_launch(config, entry)(list(words))
        except ChildFailedError as error:
            rank, failed = min(error.failures.items(), key=lambda each: each[1].timestamp)
            how = f"signal {Signals(-failed.exitcode).name}" if failed.exitcode < 0 else f"exit code {failed.exitcode}"
            raise RankLost(
                f"Rank {rank} of {count} was ended by {how}.",
                "It may have had too little memory: give fewer ranks, --micro-batch, or a smaller batch.",
            ) from error
        except SignalException as error:
            interrupted = error.sigval is Signals.SIGINT
            if interrupted and said.exists():
                return stopping.Interruption.exit_code
            raise (KeyboardInterrupt() if interrupted else stopping.Terminated()) from error
    return int(codes[0])
