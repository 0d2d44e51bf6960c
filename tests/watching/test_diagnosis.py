"""`check` in a process of its own, and programs in its place that break in every way."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_cli.watching import child
from fromage_cli.watching.diagnosis import Diagnosis, Diagnostician

from .conftest import Save, envelope


def test_check_answers(save: Save) -> None:
    first, second = save("step-1.safetensors", 1.0), save("step-2.safetensors", float("nan"))
    checked = Diagnostician(["--fail-on", "fail"], 600.0, hide_gpus=True)
    found = checked.diagnose([first], second)
    result: Any = found.envelope["result"]
    checkpoints: Any = found.envelope["checkpoints"]
    assert (found.exit_code, result["verdict"]) == (11, "stop")
    assert [one["step"] for one in checkpoints] == [1, 2]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Another ending in place of `check`'s, one for each call; returns the words of all calls."""
    calls: list[list[str]] = []

    def replace(*endings: child.Ended) -> list[list[str]]:
        rest = list(endings)

        def run(words: Sequence[str], environment: dict[str, str], seconds: float) -> child.Ended:
            calls.append([*words, f"gpus={environment.get('CUDA_VISIBLE_DEVICES')}", f"limit={seconds:g}"])
            return rest.pop(0)

        monkeypatch.setattr(child, "run", run)
        return calls

    return replace


def diagnosed(earlier: Sequence[str] = (), hide_gpus: bool = True) -> Diagnosis:
    return Diagnostician(["--seed", "3"], 5.0, hide_gpus).diagnose([Path(name) for name in earlier], Path("/r/new.pt"))


def test_the_words_of_a_call(instead: Callable[..., list[list[str]]]) -> None:
    calls = instead(child.Ended(0, json.dumps(envelope()), ""))
    assert diagnosed(["/r/a.pt"]).exit_code == 0
    assert calls == [
        [
            *(sys.executable, "-m", "fromage_cli", "check", "--seed", "3", "--time-limit", "5.0s", "--json", "-q"),
            *("--", "/r/a.pt", "/r/new.pt", "gpus=", "limit=65"),
        ]
    ]


def test_the_gpus_are_seen_only_where_they_are_asked_for(
    instead: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    calls = instead(*[child.Ended(0, json.dumps(envelope()), "")] * 2)
    diagnosed(hide_gpus=True), diagnosed(hide_gpus=False)
    assert [call[-2] for call in calls] == ["gpus=", "gpus=3"]


@pytest.mark.parametrize("code", [2, 3])
def test_one_that_does_not_go_with_earlier_ones_is_judged_by_itself(
    instead: Callable[..., list[list[str]]], code: int
) -> None:
    refused = child.Ended(code, json.dumps(envelope(None)), "")
    calls = instead(refused, child.Ended(0, json.dumps(envelope()), ""))
    assert diagnosed(["/r/a.pt"]).exit_code == 0
    assert [call[call.index("--") + 1 : -2] for call in calls] == [["/r/a.pt", "/r/new.pt"], ["/r/new.pt"]]
    instead(refused)
    assert diagnosed().exit_code == code


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [
        (child.Ended(None, "", ""), 7, "killed"),
        (child.Ended(-9, '{"schema', ""), 7, "memory"),
        (child.Ended(-11, "", "a\nSegmentation fault\x1b"), 1, r"signal 11: Segmentation fault\x1b"),
        (child.Ended(1, "Traceback", "KeyError: 'x'\n"), 1, "exit code 1: KeyError: 'x'"),
        (child.Ended(0, "[]", ""), 1, "exit code 0"),
        (child.Ended(0, "{}", ""), 1, "exit code 0"),
    ],
)
def test_an_end_without_an_answer_is_an_envelope_with_the_reason(
    instead: Callable[..., list[list[str]]], ended: child.Ended, code: int, words: str
) -> None:
    instead(ended)
    found = diagnosed()
    error: Any = found.envelope["error"]
    assert (found.exit_code, found.envelope["status"]) == (code, "error")
    assert words in error["message"] and error["hint"]


def test_a_network_that_crashes_the_process_ends_that_one_alone(save: Save, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import os, signal\ndef build(): os.kill(os.getpid(), signal.SIGSEGV)\n")
    torch.save({"x": torch.ones(4, 3)}, tmp_path / "batch.pt")
    flags = ["--model", f"{tmp_path / 'net.py'}:build", "--batch", str(tmp_path / "batch.pt")]
    found = Diagnostician(flags, 600.0, hide_gpus=True).diagnose([], save("step-1.pt"))
    error: Any = found.envelope["error"]
    assert found.exit_code == 1 and "signal 11" in error["message"]
