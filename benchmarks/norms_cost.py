"""What the norms of every tensor cost, beside `cat` on the same file in the page cache.

    python benchmarks/norms_cost.py [--gigabytes 4] [--directory DIR] [--repeats 5] [--dtypes float32,bfloat16]
                                    [--what norms,rows,magnitudes]

Writes one file per dtype, times `cat FILE > /dev/null` and the reduction in a process of its own, turn and turn about,
prints the ratio of the fastest of each, the median of the ratios of neighbours and the process's peak resident memory,
and removes the file. A series needs the norms alone, `norms` of its last checkpoint those of all rows too, `inspect`
the largest entry, zeros and what is not finite (magnitudes).
Busy seconds are those of all threads together. Where they are not above the others, other processes left it one core.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1}
CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}
COLUMNS = 1024
CHILD = """
import json, sys, time
from pathlib import Path
from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading.reductions import measure_magnitudes, measure_norms, measure_rows
reduce = {
    "norms": lambda one: measure_norms([one]),
    "rows": lambda one: measure_rows(one, one.entries),
    "magnitudes": measure_magnitudes,
}[sys.argv[3]]
reduce(open_checkpoint(sys.argv[2]))  # imports and buffers
start, worked = time.perf_counter(), time.process_time()
reduce(open_checkpoint(sys.argv[1]))
seconds, worked = time.perf_counter() - start, time.process_time() - worked
assert "torch" not in sys.modules
status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
print(json.dumps([seconds, worked, int(status['VmHWM'].split()[0]) * 1024]))
"""


def write_checkpoint(path: Path, dtype: str, size: int, tensors: int = 64) -> None:
    """A safetensors file of about `size` bytes of small normal numbers (of bytes for the one-byte types)."""
    import numpy

    rows = size // tensors // WIDTHS[dtype] // COLUMNS
    elements = rows * COLUMNS
    block = numpy.random.default_rng(0).normal(scale=0.02, size=elements).astype(numpy.float32)
    stored = {"float64": block.astype("<f8"), "float32": block, "float16": block.astype("<f2")}.get(dtype)
    if dtype == "bfloat16":
        stored = (block.view("<u4") >> 16).astype("<u2")
    data = (stored if stored is not None else (block * 500).astype("<i1")).tobytes()
    entries = {
        f"layers.{index}.weight": {
            "dtype": CODES.get(dtype, "I8"),
            "shape": [rows, COLUMNS],
            "data_offsets": [index * len(data), (index + 1) * len(data)],
        }
        for index in range(tensors)
    }
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(tensors):
            file.write(data)


def cat(path: Path) -> tuple[float, float]:
    """The time of one `cat` into nowhere, and what it kept a processor busy."""
    start, before = time.perf_counter(), os.times()
    with Path(os.devnull).open("wb") as nowhere:
        subprocess.run(["cat", str(path)], stdout=nowhere, check=True)
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, busy


def reduction(path: Path, small: Path, what: str) -> tuple[float, float, int]:
    """The time of one reduction, that of all its threads together, and the peak resident memory in bytes."""
    command = [sys.executable, "-c", CHILD, str(path), str(small), what]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds, worked, memory = json.loads(done.stdout)
    return seconds, worked, memory


def main() -> None:
    """Measure and print one line per dtype and reduction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--what", default="norms,rows,magnitudes")
    given = parser.parse_args()
    size = int(given.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        if shutil.disk_usage(folder).free < 1.1 * size:
            sys.exit(f"{folder} has no room for {size} bytes; name another --directory")
        print(
            "dtype\twhat\tbytes\tcat_seconds\tseconds\tratio\tmedian_ratio\tcat_busy\tbusy\tbusy_ratio\tpeak_megabytes"
        )
        for dtype in given.dtypes.split(","):
            path, small = Path(folder) / "large.safetensors", Path(folder) / "small.safetensors"
            write_checkpoint(path, dtype, size)
            write_checkpoint(small, dtype, 1 << 24)
            cat(path)
            for what in given.what.split(","):
                runs = [(*cat(path), *reduction(path, small, what)) for _ in range(given.repeats)]
                cat_seconds, cat_busy, own, busy = (min(run[place] for run in runs) for place in range(4))
                peak = max(run[4] for run in runs)
                median = statistics.median(run[2] / run[0] for run in runs)
                wall = f"{cat_seconds:.3f}\t{own:.3f}\t{own / cat_seconds:.2f}\t{median:.2f}"
                work = f"{cat_busy:.3f}\t{busy:.3f}\t{busy / cat_busy:.2f}"
                print(f"{dtype}\t{what}\t{path.stat().st_size}\t{wall}\t{work}\t{peak / 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()
