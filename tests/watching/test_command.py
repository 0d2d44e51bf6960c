"""`fromage-diag watch` as its user meets it: most of these tests run the program itself."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_cli.cli import main
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.options import BatchOptions, ModelOptions
from fromage_cli.watching.command import flags_of

from .conftest import Save

Call = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls `watch` in this process, from a directory beside the run: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main(["watch", *arguments])
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, captured.out, captured.err

    return called


def begun(*arguments: str, cwd: Path, **settings: Any) -> subprocess.Popen[str]:
    """The program itself, under way."""
    words = [sys.executable, "-m", "fromage_cli", "watch", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen(words, cwd=cwd, env=ENVIRONMENT, text=True, **streams)


def records(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_run_is_judged_from_its_files(save: Save, call: Call, tmp_path: Path) -> None:
    save("step-1.safetensors", 1.0), save("step-2.pt", float("nan"))
    (tmp_path / "run" / "step-3.safetensors").write_bytes(b"\x09")
    command = 'echo "$FROMAGE_DIAG_STEP $FROMAGE_DIAG_VERDICT" >> told'
    code, out, err = call("run", "--once", "--interval", ".01", "--on-fail", command)
    first, second = out.splitlines()
    assert code == 11 and "step 1  Go on" in first and re.search("step 2  Stop: .*NaN", second)
    assert "incomplete" in err and "2 checkpoints in fromage-watch.jsonl" in err
    assert (tmp_path / "told").read_text() == "2 stop\n"
    found = records(tmp_path / "fromage-watch.jsonl")
    assert [(one["step"], one["exit_code"], one["command"]) for one in found] == [(1, 0, "check"), (2, 11, "check")]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("step-1.safetensors", "step-2.pt", "step-3.safetensors")
    ]
    code, out, err = call("run", "--once", "--interval", ".01", "--on-fail", command, "--fail-on", "never")
    assert (code, out) == (0, "")
    assert (tmp_path / "told").read_text() == "2 stop\n"  # once, over all calls


def test_runs_that_share_a_log_have_their_own_verdicts(save: Save, call: Call, tmp_path: Path) -> None:
    save("step-900.pt", float("nan"))
    assert call("run", "--once", "--interval", ".01")[0] == 11
    other = tmp_path / "other"
    other.mkdir()
    code, out, err = call("other", "--once", "--interval", ".01")
    assert (code, out) == (3, "") and "No complete checkpoint was found in other" in err
    save("../other/step-1.pt", 1.0)
    (tmp_path / "latest").symlink_to("other")
    code, out, err = call("latest", "--interval", ".01", "--until-step", "1", "--fail-on", "warn")
    assert code == 0 and "step 1  Go on" in out and "1 checkpoint in fromage-watch.jsonl" in err
    (tmp_path / "run" / "step-900.pt").rename(other / "step-900.pt")  # its content was judged, in another run
    assert call("other", "--once", "--interval", ".01")[0] == 11
    (tmp_path / "latest").unlink()
    (tmp_path / "third").mkdir()
    (tmp_path / "latest").symlink_to("third")
    assert call("latest", "--once", "--interval", ".01")[0] == 3
    found = [(one["path"], one["exit_code"]) for one in records(tmp_path / "fromage-watch.jsonl")]
    names = [("run/step-900.pt", 11), ("other/step-1.pt", 0), ("other/step-900.pt", 11)]
    assert found == [(str(tmp_path / name), code) for name, code in names]


def test_with_json_the_lines_of_the_log_are_printed(save: Save, call: Call, tmp_path: Path) -> None:
    save("last.pt", 1.0)
    code, out, err = call("run", "--once", "--interval", ".01", "--json", "-q", "--log", "other.jsonl")
    assert (code, err, out) == (0, "", (tmp_path / "other.jsonl").read_text())


@pytest.mark.parametrize("flag", ["--tensorboard", "--mlflow"])
def test_numbers_go_to_a_sink(save: Save, call: Call, tmp_path: Path, flag: str, monkeypatch: Any) -> None:
    pytest.importorskip(flag.removeprefix("--"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    save("step-1.pt", 1.0)
    place = "numbers" if flag == "--tensorboard" else (tmp_path / "numbers").as_uri()
    assert call("run", "--once", "--interval", ".01", flag, place)[0] == 0
    assert any(path.is_file() for path in (tmp_path / "numbers").rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("https://x.org/run",), 2, "local directory"),
        (("run", "--log", "run/log.jsonl"), 2, "run's own directory"),
        (("run", "--tensorboard", "run/tb"), 2, "run's own directory"),
        (("run", "--log", "/dev/null"), 2, "is a character device; expected a regular file"),
        (("run", "--log", "pipe"), 2, "--log pipe is a pipe (FIFO); expected a regular file"),
        (("run", "--log", "."), 2, "is a directory; expected a regular file"),
        (("step-1.pt",), 2, "step-1.pt is a file. hint: Name its directory, or use check."),
        (("run", "--format", "csv"), 2, "not csv"),
        (("run", "-o", "x.json"), 2, "no option -o"),
        (("run", "--interval", "0"), 2, "time such as"),
        (("run", "--lr", "fast"), 2, "number"),
        (("run", "--log", "nowhere/log"), 3, "Cannot write"),
        (("run",), 3, "No complete checkpoint"),
        (("gone",), 3, "No complete checkpoint"),
    ],
)
def test_a_refusal_says_what_to_do(
    run_directory: Path, call: Call, tmp_path: Path, arguments: Sequence[str], code: int, words: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "step-1.pt").write_bytes(b"weights")
    found, out, err = call(*arguments, "--once", *(("--interval", ".01") if "--interval" not in arguments else ()))
    assert (found, out) == (code, "") and words in " ".join(err.split())
    assert "hint: " in err


def test_standard_output_is_no_log(run_directory: Path, tmp_path: Path) -> None:
    process = begun("run", "--once", "--log", "/dev/stdout", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "") and "--log /dev/stdout is a pipe (FIFO)" in err and "--json" in err


def test_what_runs_a_command_comes_from_the_command_line_alone(
    save: Save, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("step-1.pt", float("nan"))
    monkeypatch.setenv("FROMAGE_DIAG_ON_FAIL", "touch told")
    code, _, err = call("run", "--once", "--interval", ".01")
    assert code == 11 and "FROMAGE_DIAG_ON_FAIL has no effect" in err
    for text in ("on-fail = 'touch told'", "[watch]\non-fail = 'touch told'"):
        (tmp_path / "fromage.toml").write_text(text)
        code, _, err = call("run", "--once", "--trust")
        assert code == 2 and "--on-fail on the command line" in err
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize("text", ["mlflow = 'http://elsewhere'", "log = '../log.jsonl'", "tensorboard = '../tb'"])
def test_a_configuration_needs_a_yes_to_write_elsewhere(call: Call, tmp_path: Path, text: str) -> None:
    (tmp_path / "fromage.toml").write_text(text)
    code, _, err = call("run", "--once")
    assert code == 4 and "fromage-diag trust" in err


def test_flags_that_were_typed_reach_check_as_they_were() -> None:
    groups = (
        OptimizerOptions(optimizer="adamw", lr=3e-4, nesterov=True),
        ModelOptions(model="net.py:build", model_arg=["n=3", "m=4"], ema=False, trust=True),
        BatchOptions(batch="x.npz", batches=2),
    )
    typed = dict.fromkeys(
        ("optimizer", "lr", "nesterov", "model", "model_arg", "ema", "trust", "batch"), "command line"
    )
    assert flags_of(groups, typed | {"loss": "default", "batches": "environment", "seed": "project"}) == [
        *("--optimizer", "adamw", "--lr", "0.0003", "--nesterov", "--no-ema"),
        *("--model", "net.py:build", "--model-arg", "n=3", "--model-arg", "m=4", "--trust", "--batch", "x.npz"),
    ]


def test_a_network_and_a_batch_reach_check(run_directory: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef build(width): return nn.Linear(width, 2)\n")
    torch.save(torch.nn.Linear(3, 2).state_dict(), run_directory / "step-1.pt")
    torch.save({"x": torch.ones(4, 3), "y": torch.zeros(4, dtype=torch.long)}, tmp_path / "batch.pt")
    more = ("--model", "net.py:build", "--model-arg", "width=3", "--batch", "batch.pt", "--lr", "0.1", "-q")
    assert call("run", "--once", "--interval", ".01", *more, "--optimizer", "sgd")[0] == 0
    (found,) = records(tmp_path / "fromage-watch.jsonl")
    assert {"inspect", "norms", "forward-pass", "breakdown", "sharpness"} <= {*found["result"]["looked"]}
    assert found["result"]["results"]["sharpness"]["learning_rate"] == 0.1


@pytest.mark.parametrize(("typed", "device"), [((), "cpu"), (("--device", "auto"), "auto")])
def test_a_device_is_used_only_where_it_is_typed(
    save: Save, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Sequence[str], device: str
) -> None:
    monkeypatch.setenv("FROMAGE_DIAG_DEVICE", "cuda")
    save("step-1.pt")
    call("run", "--once", "--interval", ".01", *typed)
    (found,) = records(tmp_path / "fromage-watch.jsonl")
    assert found["settings"]["device"] == device


def test_one_that_cannot_be_judged_gives_its_exit_code(run_directory: Path, call: Call, tmp_path: Path) -> None:
    (run_directory / "step-1.pt").write_bytes(b"\x80\x02" + 100 * b"x")
    code, out, _ = call("run", "--once", "--interval", ".01")
    assert code == 3 and "step 1  Not judged" in out
    (found,) = records(tmp_path / "fromage-watch.jsonl")
    assert (found["status"], found["error"]["code"], found["result"]) == ("error", "input", None)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_its_check_and_the_log_is_whole(
    save: Save, tmp_path: Path, number: int, code: int
) -> None:
    save("step-1.pt", 1.0)
    process = begun("run", "--interval", ".05", cwd=tmp_path)
    assert process.stdout is not None and "step 1" in process.stdout.readline()
    save("step-2.pt", 2.0)
    time.sleep(1.0)  # the check of step 2 has begun
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "") and err.splitlines()[1].startswith("error: ")
    assert [one["step"] for one in records(tmp_path / "fromage-watch.jsonl")] == [1]
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert str(tmp_path) not in running


def test_one_that_is_overwritten_in_place_while_check_reads_it(save: Save, tmp_path: Path) -> None:
    path, other = save("last.safetensors", 1.0), save("other/last.safetensors", float("nan")).read_bytes()
    process = begun("run", "--interval", ".05", cwd=tmp_path)
    try:
        children = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
        while not subprocess.run(children, capture_output=True, check=False).stdout:
            time.sleep(0.05)
        with path.open("r+b") as file:
            file.write(other)
        assert process.stdout is not None and "Stop" in process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
    (found,) = records(tmp_path / "fromage-watch.jsonl")
    assert (found["content"], found["result"]["verdict"]) == (hashlib.sha256(other).hexdigest(), "stop")


def test_a_second_watch_on_the_same_log_is_refused(run_directory: Path, tmp_path: Path) -> None:
    first = begun("run", cwd=tmp_path)
    try:
        for _ in range(200):
            if (tmp_path / "fromage-watch.jsonl.lock").exists() and (tmp_path / "fromage-watch.jsonl.lock").read_text():
                break
            time.sleep(0.05)
        second = begun("run", cwd=tmp_path)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 3 and f"process {first.pid} on" in err
    finally:
        first.kill()
        first.communicate()


def test_a_reader_that_goes_away_ends_it_quietly(save: Save, tmp_path: Path) -> None:
    save("step-1.pt", 1.0), save("step-2.pt", 2.0)
    process = begun("run", "--interval", ".05", cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert (
        process.stderr.read() == "note: run is watched; each checkpoint gets a line here and in fromage-watch.jsonl\n"
    )
    process.stderr.close()
    assert len(records(tmp_path / "fromage-watch.jsonl")) == 2


def test_kills_of_the_program_lose_nothing_and_do_nothing_twice(save: Save, tmp_path: Path) -> None:
    """A few, as each takes seconds; `benchmarks/watch_cost.py --kills 50` has more."""
    drawn, log = random.Random(1), tmp_path / "fromage-watch.jsonl"
    for step in range(1, 4):
        save(f"step-{step}.safetensors", float(step))
        process = begun("run", "--interval", ".02", cwd=tmp_path, stdout=subprocess.DEVNULL)
        time.sleep(drawn.uniform(0.5, 4.0))
        process.kill()
        process.communicate()
    last = begun("run", "--once", "--interval", ".02", cwd=tmp_path)
    last.communicate(timeout=120)
    assert last.returncode == 0
    assert sorted(one["step"] for one in records(log)) == [1, 2, 3]


def test_following_loads_neither_torch_nor_numpy(save: Save, tmp_path: Path) -> None:
    """Of a distributed checkpoint too, so that days of watching take little memory."""
    import torch.distributed.checkpoint as dcp

    dcp.save({"model": {"w": torch.ones(3, 3)}}, checkpoint_id=tmp_path / "run" / "step-1", no_dist=True)
    save("step-2.pt"), save("step-3.safetensors")
    code = f"""
import sys
from pathlib import Path
from fromage_cli.watching.arrivals import arrivals
import fromage_cli.watching.command
found = arrivals(Path({str(tmp_path / "run")!r}))
assert [one.why_incomplete() for one in found] == ["", "", ""], found
assert not {{"torch", "numpy"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
