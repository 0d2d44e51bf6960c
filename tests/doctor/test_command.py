"""`fromage-diag doctor` as a user meets it."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fromage_cli.doctor import self_test
from fromage_cli.doctor.checks import CHECKS

Call = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


def test_where_everything_works_the_first_line_says_so_and_the_exit_code_is_0(call: Call) -> None:
    code, out, _ = call("doctor", "--format", "rich")
    assert code == 0 and out.startswith("Everything works here.\n")


def test_the_main_table_has_a_line_for_each_check(call: Call) -> None:
    code, out, _ = call("doctor", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["name"] for row in rows] == list(CHECKS)
    assert {row["status"] for row in rows} == {"ok"} and all(row["what"] for row in rows)


def test_the_envelope_has_every_part(call: Call) -> None:
    code, out, _ = call("doctor", "--json")
    envelope = json.loads(out)
    assert (code, envelope["status"], envelope["command"]) == (0, "ok", "doctor")
    result = envelope["result"]
    assert {one["name"] for one in result["versions"]} == {"torch", "numpy", "safetensors", "typer", "rich"}
    assert result["attention"][0]["verdict"] == "right" and result["self_test"][0]["breakdown_gap"] < 1e-10
    assert {"extras", "configuration", "job", "terminal", "devices", "memory", "processors"} <= set(result)
    assert envelope["settings"]["fail_on"] == "fail" and envelope["settings"]["time_limit"] == 300.0


@pytest.mark.parametrize("table", ["versions", "extras", "configuration", "devices", "attention", "summary"])
def test_every_table_can_be_asked_for(table: str, call: Call) -> None:
    code, _, err = call("doctor", "--table", table)
    assert (code, err) == (0, "")


def wrong_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "ALLOWED", 0.0)


def test_a_failure_is_exit_11_unless_it_is_told_otherwise(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_self_test(monkeypatch)
    code, out, _ = call("doctor", "--format", "rich")
    assert code == 11 and out.startswith("1 thing needs you: self-test.\n") and "What now: Trust no number" in out
    assert call("doctor", "--fail-on", "never", "-q")[0] == 0


def test_a_warning_is_exit_10_where_it_counts(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROMAGE_DIAG_LERNING_RATE", "3")
    code, out, _ = call("doctor", "--format", "rich")
    assert code == 0 and "1 thing needs you: configuration." in out
    assert "Nearest: FROMAGE_DIAG_" in " ".join(out.split())
    assert call("doctor", "--fail-on", "warn")[0] == 10


def test_a_limit_of_time_is_exit_7_with_what_was_found(call: Call) -> None:
    code, out, err = call("doctor", "--time-limit", "0.000001", "--format", "rich")
    assert code == 7 and "Not looked at: self-test, attention, files, devices." in " ".join(out.split())
    assert "time limit" in err


def test_an_import_that_never_ends_is_ended_by_the_limit_of_time(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    arguments = [sys.executable, "-m", "fromage_cli", "doctor", "--time-limit", "1s"]
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 7 and done.stderr.startswith("error: The time limit of 1 s was reached")


def test_a_broken_configuration_is_told_and_does_not_stop_it(call: Call, tmp_path: Path) -> None:
    (tmp_path / "fromage.toml").write_text("= broken")
    code, out, _ = call("doctor", "--format", "rich")
    assert code == 11 and out.startswith("1 thing needs you: configuration.\n") and "Invalid statement" in out
    (tmp_path / "fromage.toml").write_text('lerning-rate = "3"\n')
    envelope = json.loads(call("doctor", "--json")[1])
    assert {one["code"] for one in envelope["findings"]} == {"configuration-wrong", "setting-without-effect"}


def test_settings_of_its_own_are_heard_from_the_project(call: Call, tmp_path: Path) -> None:
    (tmp_path / "fromage.toml").write_text('[doctor]\nformat = "json"\n')
    assert json.loads(call("doctor")[1])["command"] == "doctor"


def test_code_that_is_named_is_told_and_never_run(call: Call, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('it was run')\n")
    (tmp_path / "fromage.toml").write_text('model = "net.py:build"\n')
    code, out, _ = call("doctor", "--format", "rich", "--fail-on", "warn")
    assert code == 10 and "names code that you have not trusted" in " ".join(out.split())
    assert call("trust", ".")[0] == 0
    code, out, _ = call("doctor", "--format", "rich", "--fail-on", "warn")
    assert code == 0 and "fromage.toml trusted" in " ".join(out.split())


def test_ranks_that_cannot_be_read_are_told_and_do_not_stop_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, _ = call("doctor", "--json")
    envelope = json.loads(out)
    assert code == 11 and [one["code"] for one in envelope["findings"]] == ["ranks-not-readable"]
    assert envelope["result"]["job"]["missing"]["rank"]["code"] == "not-evaluated"


def test_nothing_secret_is_printed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden_too")
    monkeypatch.setenv("FROMAGE_DIAG_BATCH", "https://me:hidden_here@host/batch.npz")
    for format in (("--format", "rich", "-v"), ("--json",)):
        assert "hidden" not in call("doctor", *format)[1]


@pytest.mark.parametrize("source", ["raise ImportError('libcudart.so.12: cannot open')", "", "1 / 0"])
def test_without_a_torch_that_works_it_says_so_in_one_message(source: str, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(source)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    arguments = [sys.executable, "-m", "fromage_cli", "doctor", "--json"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    envelope = json.loads(done.stdout)
    assert done.returncode == 11 and done.stderr == ""
    (finding,) = envelope["findings"]
    assert finding["code"] == "package-not-usable" and finding["message"].startswith("torch cannot be imported: ")
    assert finding["hint"] == "Type: python -m pip install 'torch>=2.10'"
