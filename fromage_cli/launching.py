"""`--nproc`: the same command in several ranks on this machine, started by torch's own launcher."""

import logging
import os
from collections.abc import Callable, Sequence
from signal import Signals
from uuid import uuid4

from fromage_cli import stopping
from fromage_cli.ranks import LAUNCHED, RankLost

LOGGERS = (
    *("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing"),
    *("torch.distributed.elastic.agent.server.api", "torch.multiprocessing.spawn"),
)


def launch(entry: Callable[[Sequence[str]], int], words: Sequence[str], count: int) -> int:
    """Run `entry(words)` in so many ranks; the exit code of the first.

    Each gets its share of the processors, unless OMP_NUM_THREADS says otherwise. Raises RankLost where one was ended.
    """
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
    own = {"OMP_NUM_THREADS": str(max(1, processors // count)), "THP_MEM_ALLOC_ENABLE": "1", LAUNCHED: "1"}
    os.environ |= {name: os.environ.get(name, value) for name, value in own.items()}
    try:
        codes = elastic_launch(config, entry)(list(words))
    except ChildFailedError as error:
        rank, failed = min(error.failures.items(), key=lambda each: each[1].timestamp)
        how = f"signal {Signals(-failed.exitcode).name}" if failed.exitcode < 0 else f"exit code {failed.exitcode}"
        raise RankLost(
            f"Rank {rank} of {count} was ended by {how}.",
            "It may have had too little memory: give fewer ranks, --micro-batch, or a smaller batch.",
        ) from error
    except SignalException as error:
        raise (KeyboardInterrupt() if error.sigval is Signals.SIGINT else stopping.Terminated()) from error
    return int(codes[0])
