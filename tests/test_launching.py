"""Real ranks from the command line: one answer, one message, the contract's exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

SAMPLES = Path(__file__).parents[1] / "sample_checkpoints"
PROBLEM = [str(SAMPLES / "mlp-2" / "step-000440.safetensors"), "--batch", str(SAMPLES / "mlp-2" / "batch.safetensors")]
PROGRAM = [sys.executable, "-m", "fromage_cli"]
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")} | {
    "OMP_NUM_THREADS": "1"
}


def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    settings = ALONE | environment
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, env=settings, timeout=120, check=False)


def together(words: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Exit codes and outputs of ranks that somebody else started, each with its own words."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        group = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(len(words))}
    processes = [
        subprocess.Popen(
            [*PROGRAM, *own],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ALONE | group | {"RANK": str(rank)},
        )
        for rank, own in enumerate(words)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def test_two_ranks_give_one_answer_and_it_is_that_of_one() -> None:
    words = ["sharpness", *PROBLEM, "--optimizer", "sgd", "--lr", "0.5", "--dtype", "float64", "--json"]
    words += ["--fail-on", "warn"]
    alone, two = run(*words), run(*words, "--nproc", "2")
    assert (two.returncode, two.stderr) == (alone.returncode, alone.stderr)
    first, second = (json.loads(one.stdout)["result"] for one in (alone, two))
    assert second["ratio"] == pytest.approx(first["ratio"], rel=1e-12)
    assert [one["value"] for one in second["eigenvalues"]] == pytest.approx(
        [one["value"] for one in first["eigenvalues"]], rel=1e-10
    )


def test_every_number_is_that_of_one_process_where_each_holds_its_rows_of_a_checkpoint() -> None:
    sample = [str(SAMPLES / "char-gpt"), "--model", f"{SAMPLES / 'models.py'}:char_gpt"]
    words = ["breakdown", *sample, "--direction", "adam", "--eta", "1e-3,1e-2", "--micro-batch", "20", "--reload"]
    words += ["--dtype", "float64", "--json"]
    alone, two = (json.loads(run(*words, *more).stdout) for more in ([], ["--nproc", "2", "--shard"]))
    assert (alone["status"], two["tool"]["ranks"]) == (two["status"], 2)
    first, second = dict(numbers(alone["result"])), dict(numbers(two["result"]))
    assert first.keys() == second.keys() and len(first) > 100
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def numbers(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in an answer, each by its place, without noise floors, which are rounding."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from () if key.endswith("floor") else numbers(each, f"{name}.{key}")
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from numbers(each, f"{name}[{place}]")
    elif isinstance(value, float):
        yield name, value


def test_the_estimate_of_a_rank_that_holds_its_rows_is_near_its_peak() -> None:
    sample = [str(SAMPLES / "char-gpt"), "--model", f"{SAMPLES / 'models.py'}:char_gpt"]
    words = ["breakdown", "--eta", "1e-3:1e-2:2", *sample, "--nproc", "2", "--shard", "--json"]
    told, taken = (json.loads(run(*words, *more).stdout) for more in (["--estimate"], []))
    assert told["result"]["estimate"]["bytes"] == pytest.approx(taken["tool"]["peak_memory"], rel=0.3)


def test_a_single_value_and_its_exit_code_are_those_of_one_process() -> None:
    words = ["suggest-lr", *PROBLEM, "--optimizer", "sgd", "--value", "limit"]
    alone, two = run(*words), run(*words, "--nproc", "2")
    assert two.returncode == alone.returncode
    assert float(two.stdout) == pytest.approx(float(alone.stdout), rel=1e-4)
    assert two.stderr.count("error: ") == 0


def test_an_error_of_all_ranks_is_said_once() -> None:
    done = run("breakdown", *PROBLEM, "--nproc", "2", "--loss", "no-such-loss")
    assert done.returncode == run("breakdown", *PROBLEM, "--loss", "no-such-loss").returncode
    assert done.stdout == "" and done.stderr.count("error: ") == 1


def test_batch_normalisation_in_training_is_refused() -> None:
    checkpoint = str(SAMPLES / "convnet-sgd")
    words = ["breakdown", checkpoint, "--model", f"{SAMPLES / 'models.py'}:convnet", "--mode", "train", "--nproc", "2"]
    done = run(*words)
    assert done.returncode == 5 and done.stderr.count("error: ") == 1
    assert "several ranks would change it" in done.stderr


def test_ranks_that_disagree_about_the_batch_end_with_one_message(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    batch = load_file(PROBLEM[-1])
    name = next(name for name, tensor in batch.items() if tensor.is_floating_point())
    save_file(batch | {name: torch.flip(batch[name], (0,))}, tmp_path / "other.safetensors")
    words = ["breakdown", *PROBLEM]
    (code, out, err), (other, nothing, silent) = together([words, [*words[:-1], str(tmp_path / "other.safetensors")]])
    assert (code, other, out, nothing, silent) == (5, 5, "", "", "")
    assert err.count("error: ") == 1 and "Rank 1 has another batch than rank 0." in err


def test_a_rank_that_fails_alone_ends_all_with_its_message() -> None:
    words = ["breakdown", *PROBLEM, "--json"]
    missing = [words[0], words[1].replace("440", "441"), *words[2:]]
    (code, out, err), (other, nothing, silent) = together([words, missing])
    assert (code, other, nothing, silent) == (3, 3, "", "")
    told = json.loads(out)
    assert told["status"] == "error" and told["error"]["message"].startswith("Rank 1: ") and "441" in err


def small_memory(folder: Path, rank: int, rows: int) -> list[str]:
    """The problem with a network that fails on one rank above so many rows."""
    (folder / "small.py").write_text(
        f"""
import os, torch

class Small(torch.nn.Linear):
    def forward(self, x):
        if os.environ.get("RANK", "{rank}") == "{rank}" and len(x) > {rows}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return super().forward(x)

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(Small(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))

def batch():
    return torch.randn(10, 6), torch.randint(3, (10,))
"""
    )
    return ["--model", f"{folder / 'small.py'}:build", "--batch", f"{folder / 'small.py'}:batch"]


def test_ranks_whose_memory_is_too_small_take_chunks_together(tmp_path: Path) -> None:
    words = ["sharpness", *small_memory(tmp_path, 1, 2), "--optimizer", "sgd", "--lr", "0.5", "--dtype", "float64"]
    (code, out, err), (other, nothing, silent) = together([[*words, "--json"]] * 2)
    explicit = run(*words, "--micro-batch", "2", "--json", RANK="0", WORLD_SIZE="1")
    assert (code, other, nothing, silent) == (0, 0, "", "")
    first, second = json.loads(out), json.loads(explicit.stdout)
    assert first["tool"]["ranks"] == 2 and second["tool"]["ranks"] == 1
    assert first["settings"]["micro_batch"] == 2 and "evaluated in chunks of 2 rows." in err
    assert first["result"]["eigenvalues"][0]["value"] == pytest.approx(
        second["result"]["eigenvalues"][0]["value"], rel=1e-9
    )


def test_a_rank_without_memory_ends_all_with_one_message(tmp_path: Path) -> None:
    words = ["breakdown", *small_memory(tmp_path, 1, 0), "--json"]
    (code, out, err), (other, nothing, silent) = together([words, words])
    assert (code, other, nothing, silent) == (7, 7, "", "")
    assert err.count("error: ") == 1 and "one row alone does not fit" in err and "Traceback" not in err
    assert json.loads(out)["status"] == "error"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_is_killed_ends_all_with_one_message(number: int) -> None:
    words = ["breakdown", *PROBLEM, "--nproc", "2", "--eta", "1e-4:1:4000", "--json"]
    process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ALONE)
    children = ["pgrep", "-P", str(process.pid), "-f", "spawn_main"]
    until = time.monotonic() + 60
    while len(found := subprocess.run(children, capture_output=True, text=True, check=False).stdout.split()) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    time.sleep(4)
    os.kill(int(found[-1]), number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert err.count("error: ") == 1 and json.loads(out)["status"] == "error"


def test_nproc_of_one_is_alone_in_a_group_that_never_meets() -> None:
    done = run("distance", PROBLEM[0], PROBLEM[0], "--nproc", "1", RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost")
    assert done.returncode == 0
    done = run("distance", PROBLEM[0], PROBLEM[0], "--nproc", "3", RANK="0", WORLD_SIZE="2")
    assert done.returncode == 2 and "one of 2 ranks" in done.stderr


def test_an_error_before_ranks_meet_is_said_by_the_first_and_by_one_that_computes_alone() -> None:
    wrong = ["breakdown", *PROBLEM, "--no-such-option"]
    (code, out, err), (other, nothing, silent) = together([wrong, wrong])
    assert (code, other, out, nothing, silent) == (2, 2, "", "", "")
    assert err.count("error: ") == 1 and "--no-such-option" in err
    told = [together([[*wrong, "--nproc", "1"]] * 2), together([["breakdown", *PROBLEM, "--nproc", "3"]] * 2)]
    assert [[err.count("error: ") for *_, err in each] for each in told] == [[1, 1], [1, 0]]


@pytest.mark.parametrize(("passes", "layers"), [(0, 0), (9, 1), (13, 1)])
def test_a_rank_that_runs_out_of_memory_ends_all_with_one_message(passes: int, layers: int, tmp_path: Path) -> None:
    """In the first pass, and at two points of the curve, in the model of the second rank alone.

    What was measured until then is shown: a head and the network's only layer.
    """
    (tmp_path / "net.py").write_text(OUT_OF_MEMORY.format(passes=passes), encoding="utf-8")
    words = ["breakdown", "--model", f"{tmp_path}/net.py:build", "--batch", f"{tmp_path}/net.py:rows"]
    started = time.monotonic()
    done = run(*words, "--nproc", "2")
    assert done.returncode == 7 and time.monotonic() - started < 100
    assert done.stderr.count("error: ") == 1 and "memory" in done.stderr.lower(), done.stderr
    shown = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert shown == ["name", "weight"][: 2 * layers]
    (code, out, err), (other, nothing, silent) = together([words, words])
    assert (code, other, nothing, silent) == (7, 7, "", "")
    assert [line.split("\t")[0] for line in out.splitlines()] == shown
    assert err.count("error: ") == 1 and "memory" in err.lower()


OUT_OF_MEMORY = """
import itertools, os, torch
from torch import nn

PASSES = itertools.count()

class Net(nn.Linear):
    def forward(self, x):
        if next(PASSES) >= {passes} and os.environ["RANK"] == "1":
            raise MemoryError
        return super().forward(x)

def build():
    return Net(4, 3)

def rows():
    return {{"x": torch.randn(10, 4), "y": torch.randint(3, (10,))}}
"""


def test_more_processes_than_fit_in_memory_are_refused_at_once() -> None:
    done = run("breakdown", *PROBLEM, "--nproc", "100000")
    assert done.returncode == 7 and done.stdout == ""
    assert done.stderr.startswith("error: 100000 processes take ") and "--nproc" in done.stderr


@pytest.mark.parametrize("measuring", [False, True])
def test_an_interrupt_ends_ranks_with_one_message_and_one_document(measuring: bool) -> None:
    """While they begin, and while they measure."""
    words = ["breakdown", *PROBLEM, "--nproc", "2", "--eta", "1e-4:1:4000", "--json"]
    process = subprocess.Popen(
        [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ALONE, process_group=0
    )
    children = ["pgrep", "-P", str(process.pid), "-f", "spawn_main"]
    until = time.monotonic() + 60
    while not subprocess.run(children, capture_output=True, check=False).stdout:
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(6.0 if measuring else 0.0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.count("error: ") == 1
    told = json.loads(out)
    assert told["error"]["code"] == "interrupted"
    assert not measuring or told["result"]["etas"], "what was measured so far is shown"


@pytest.mark.parametrize("shard", [[], ["--shard"]])
def test_a_missing_part_of_a_checkpoint_ends_ranks_with_one_message(tmp_path: Path, shard: list[str]) -> None:
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    weights = {"weight": "model-1.safetensors", "bias": "model-2.safetensors"}
    index = {"metadata": {}, "weight_map": weights}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    save_file({"weight": torch.ones(3, 4)}, tmp_path / "model-1.safetensors")
    done = run("breakdown", str(tmp_path), "--model", f"{tmp_path}/net.py:build", "--batch", f"{tmp_path}/net.py:rows",
               "--nproc", "2", *shard)  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("error: ") == 1 and "model-2.safetensors" in done.stderr


NETWORK = """
import torch

def build():
    return torch.nn.Linear(4, 3)

def rows():
    torch.manual_seed(0)
    return torch.randn(8, 4), torch.randint(3, (8,))
"""
