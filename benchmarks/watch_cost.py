"""What `fromage-diag watch` takes: memory over many checkpoints, seconds for each, the hash of a large file, and kills.

    python benchmarks/watch_cost.py --checkpoints 100 --kills 50

The watch is killed with SIGKILL at random moments while checkpoints are written. Afterwards each of them has to stand
in the log exactly once. Linux only, as memory is read from /proc.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from fromage_cli.watching.fingerprint import content_of


def begun(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A watch of the run in a directory, under way."""
    words = [sys.executable, "-m", "fromage_cli", "watch", "run", "--interval", "0.1", *arguments]
    return subprocess.Popen(words, cwd=home, stdout=subprocess.DEVNULL)


def save(home: Path, step: int) -> None:
    """A checkpoint of a few bytes, which is a network that cannot be rebuilt, so that files alone are looked at."""
    (home / "run").mkdir(exist_ok=True)
    save_file({"w": torch.full((4, 4, 3), float(step))}, home / "run" / f"step-{step}.safetensors")


def steps_in(log: Path) -> list[int]:
    """The steps in a log, in its order; a line that is being written does not count yet."""
    whole = log.read_text().rpartition("\n")[0] if log.exists() else ""
    return [json.loads(line)["step"] for line in whole.splitlines()]


def resident(process: int) -> float:
    """Main memory that a process holds now, in MB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


def memory_over(count: int) -> None:
    """Print memory and seconds over so many checkpoints, one written whenever the one before stands in the log."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        save(home, 1)
        process, start = begun(home, "--until-step", str(count)), time.monotonic()
        held = []
        for step in range(2, count + 2):
            while len(steps_in(home / "fromage-watch.jsonl")) < step - 1:
                time.sleep(0.1)
            held.append(resident(process.pid) if process.poll() is None else held[-1])
            if step <= count:
                save(home, step)
        seconds = time.monotonic() - start
        assert process.wait() == 0
    middle = len(held) // 2
    print(f"{count} checkpoints: {seconds / count:.2f} s each")
    print(f"memory of the watch: {held[0]:.1f} MB after 1, {held[middle]:.1f} MB after {middle + 1}, {held[-1]:.1f} MB")


def hash_rate(gigabytes: float) -> None:
    """Print how fast a file is hashed that lies in the page cache."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "large"
        block = os.urandom(1 << 24)
        with file.open("wb") as stream:
            for _ in range(int(gigabytes * 1e9) // len(block)):
                stream.write(block)
        start = time.monotonic()
        content_of(file, (file,))
        print(f"hash: {file.stat().st_size / 1e9 / (time.monotonic() - start):.2f} GB/s")


def kills(count: int) -> None:
    """Kill so many watches at random moments; print what the log holds then."""
    drawn, steps = random.Random(0), 0
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        for _ in range(count):
            if drawn.random() < 0.5 or not steps:
                steps += 1
                save(home, steps)
            process = begun(home)
            time.sleep(drawn.uniform(0.1, 12.0))
            process.kill()
            process.wait()
        before = len(steps_in(home / "fromage-watch.jsonl"))
        assert begun(home, "--once").wait() == 0
        found = steps_in(home / "fromage-watch.jsonl")
    assert sorted(found) == list(range(1, steps + 1)), found
    print(f"{count} kills: {steps} checkpoints, each in the log once; {before} before the last watch")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50)
    asked = parser.parse_args()
    hash_rate(1.0)
    if asked.checkpoints:
        memory_over(asked.checkpoints)
    if asked.kills:
        kills(asked.kills)
