"""Code that the user names: where it does not stop, spoils the output or raises oddities, limits hold all the same."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.cli import main
from fromage_cli.process_memory import peak_memory

ROOT = Path(__file__).parents[2]
NETWORK = """
import os, sys, time, torch
from torch import nn
CALLS = []  # what modules hold is put back after each evaluation
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 4, bias=False), nn.Linear(4, 3, bias=False)
    def forward(self, x):
        CALLS.append(1)
        h = self.first(x)
        if len(CALLS) > {late}: {body}
        return self.last(h)
def build():
    net = Net()
    {building}
    return net
"""
FOREVER = "time.sleep(3600)"
Run = Callable[..., tuple[int, str, str, float]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run breakdown on a network of such code; exit code, both streams and seconds."""
    monkeypatch.chdir(tmp_path)
    save_file({"first.weight": torch.ones(4, 2), "last.weight": torch.eye(3, 4)}, "weights.safetensors")
    save_file({"x": torch.tensor([[1.0, 2.0], [3.0, -1.0]]), "y": torch.tensor([0, 1])}, "batch.safetensors")

    def call(
        *flags: str,
        body: str = "pass",
        late: int = 10**9,
        building: str = "pass",
        top: str = "",
        file: str = "net.py",
    ) -> tuple[int, str, str, float]:
        Path(file).write_text(NETWORK.format(body=body, late=late, building=building) + top)
        arguments = ["weights.safetensors", "--model", f"{file}:build", "--batch", "batch.safetensors", *flags]
        started = time.monotonic()
        with pytest.raises(SystemExit) as exit:
            main(["breakdown", *arguments])
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err, time.monotonic() - started

    return call


def start(*flags: str) -> "subprocess.Popen[str]":
    """The same in a process of its own."""
    arguments = ["weights.safetensors", "--model", "net.py:build", "--batch", "batch.safetensors", *flags]
    command = [sys.executable, "-m", "fromage_cli", "breakdown", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "code",
    [
        {"top": FOREVER},
        {"building": FOREVER},
        {"building": "while True: pass"},
        {"body": FOREVER, "late": 0},
        {"body": "exec('while True: torch.ones(9)')", "late": 0},
        {"building": "net.last.weight.register_hook(lambda _: time.sleep(3600))"},
        {"building": "net.last.weight.register_hook(lambda _: exec('try: time.sleep(3600)\\nexcept Exception: pass'))"},
    ],
)
def test_the_time_limit_stops_one_import_one_factory_and_one_evaluation(run: Run, code: dict[str, str]) -> None:
    exit, out, err, seconds = run("--time-limit", "0.5", "--json", **code)
    assert (exit, json.loads(out)["error"]["code"]) == (7, "resources")
    assert "The time limit of 0.5 s was reached" in err and "Traceback" not in err
    assert seconds < 20.0


def test_what_was_measured_before_the_limit_is_kept(run: Run) -> None:
    run()  # the time of imports counts too
    exit, out, err, _ = run("--time-limit", "3", "--json", body=FOREVER, late=20, file="late.py")
    document = json.loads(out)
    assert (exit, document["status"], document["error"]["code"]) == (7, "error", "resources"), err
    measured = [loss for loss in document["result"]["losses"] if loss is not None]
    assert len(measured) >= 2


def later(seconds: float, number: int) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


def test_the_first_interrupt_keeps_what_was_measured(run: Run) -> None:
    run()
    later(3.0, signal.SIGINT)
    exit, out, err, seconds = run("--json", body=FOREVER, late=20, file="late.py")
    document = json.loads(out)
    assert (exit, document["status"], document["error"]["code"]) == (130, "error", "interrupted"), err
    assert len([loss for loss in document["result"]["losses"] if loss is not None]) >= 2
    assert "Ctrl-C again" in err and seconds < 20.0


def test_an_interrupt_before_anything_is_measured_ends(run: Run) -> None:
    later(1.0, signal.SIGINT)
    exit, out, err, seconds = run("--json", building=FOREVER)
    assert (exit, json.loads(out)["result"], "Ctrl-C again" in err) == (130, None, False)
    assert seconds < 20.0


@pytest.mark.parametrize(
    ("flags", "numbers", "exit", "code"),
    [
        ((), [signal.SIGTERM], 143, "terminated"),
        ((), [signal.SIGINT, signal.SIGINT], 130, None),
        (("--time-limit", "1"), [], 7, "resources"),
    ],
)
def test_code_that_swallows_everything_is_ended_from_within(
    run: Run, flags: tuple[str, ...], numbers: list[int], exit: int, code: str | None
) -> None:
    run()
    swallow = 'exec(\'open("running", "w").close()\\nwhile True:\\n try: time.sleep(3600)\\n except: pass\')'
    child = os.fork()  # this process has torch already, and would be ended itself
    if child == 0:
        try:
            run("-o", "a.json", *flags, building=swallow, file="swallowing.py")
        finally:
            os._exit(99)
    while numbers and not Path("running").exists():
        time.sleep(0.05)
    for number in numbers:
        time.sleep(0.3)
        os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == exit
    found = json.loads(Path("a.json").read_text())["error"]["code"] if Path("a.json").exists() else None
    assert found == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_the_model_swallows_ends_the_run_all_the_same(run: Run, number: int) -> None:
    later(2.0, number)
    swallow = "exec('try: time.sleep(3600)\\nexcept: pass')"
    exit, out, _, seconds = run("--json", body=swallow, late=20)
    assert (exit, json.loads(out)["error"]["code"]) == (143, "terminated")
    assert seconds < 20.0


@pytest.mark.parametrize(
    "body",
    [
        "exec('class Odd(Exception):\\n def __str__(self): raise ValueError\\nraise Odd')",
        "exec('class Odd(RuntimeError):\\n def __str__(self): raise SystemExit\\nraise Odd')",
        "exec('class Odd(BaseException): pass\\nraise Odd(3)')",
        "exec('import asyncio; raise asyncio.CancelledError')",
        "sys.exit(0)",
        "raise GeneratorExit",
    ],
)
@pytest.mark.parametrize("where", ["body", "building", "top"])
def test_whatever_the_user_raises_is_no_bug_of_ours(run: Run, body: str, where: str) -> None:
    exit, _, err, _ = run(**{where: body}, late=0)  # type: ignore[arg-type]
    assert exit == (1 if body == "raise GeneratorExit" else 5)
    assert "Traceback" not in err and "error: " in err


@pytest.mark.parametrize("where", ["body", "building", "top"])
def test_a_lower_recursion_limit_is_the_users_alone(run: Run, where: str) -> None:
    before = sys.getrecursionlimit()
    depth = "__import__('inspect').stack(0)"
    exit, _, err, _ = run(**{where: f"sys.setrecursionlimit(len({depth}) + 20)"}, late=0)  # type: ignore[arg-type]
    assert (exit in (0, 5), "bug" in err) == (True, False), err
    assert sys.getrecursionlimit() == before


SPOILERS = """
import atexit, os, subprocess, sys, threading, time
def spoil():
    os.system("echo spoilt")
    subprocess.run(["echo", "spoilt"])
    os.write(1, b"spoilt\\n")
    print("spoilt", file=sys.__stdout__, flush=True)
    print("spoilt")
def forever():
    while True:
        print("spoilt", flush=True)
        time.sleep(0.01)
spoil()
threading.Thread(target=forever, daemon=True).start()
atexit.register(spoil)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
def test_standard_output_holds_the_answer_and_nothing_else(run: Run) -> None:
    run()
    Path("net.py").write_text(NETWORK.format(body="spoil()", late=0, building="spoil()") + SPOILERS)
    process = start("--json", "--eta", "1e-3")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["command"] == "breakdown"
    assert "spoilt" in err


def test_a_relative_output_stays_where_it_was_meant(run: Run, tmp_path: Path) -> None:
    Path("elsewhere").mkdir()
    flags = ["-o", "a.json", "--plot", "a.svg"]
    seen = "open('seen', 'a').write(os.getcwd())"  # theirs goes on where it went
    exit, _, err, _ = run(*flags, building="os.chdir('elsewhere')", body=seen, late=0)
    assert exit == 0, err
    assert sorted(path.name for path in tmp_path.iterdir() if path.stem == "a") == ["a.json", "a.svg"]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["seen"]
    assert Path.cwd() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="the system must count what is allocated")
@pytest.mark.parametrize(
    "body",
    [
        "torch.ones(3 * 10**9, dtype=torch.uint8)",
        "[torch.ones(10**7, dtype=torch.uint8) for _ in range(300)]",
        "[bytearray(10**7) for _ in range(300)]",
    ],
)
def test_the_memory_limit_stops_one_evaluation(run: Run, body: str) -> None:
    run()
    limit = (peak_memory() or 0) + 200_000_000
    child = os.fork()  # this process would be confined itself
    if child == 0:
        try:
            run("-o", "a.json", "--max-memory", str(limit), body=f"CALLS.append({body})", late=20, file="large.py")
        except BaseException:
            os._exit(99)
        os._exit(0 if (peak_memory() or 0) < limit + 500_000_000 else 98)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    document = json.loads(Path("a.json").read_text())
    assert document["error"]["code"] == "resources"
    assert len([loss for loss in document["result"]["losses"] if loss is not None]) >= 2
