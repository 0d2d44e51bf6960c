"""`fromage-diag report` as a user and a script meet it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.cli import main
from fromage_cli.report.opening import read_answers

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(call: Call) -> Call:
    """Runs `report` in a directory of its own."""
    return partial(call, "report")


def test_a_run_is_asked_at_all_its_checkpoints(call: Call, tmp_path: Path) -> None:
    run = SAMPLES / "mlp-2"
    code, out, _ = call(run, "-o", "page.html")
    assert (code, out) == (0, "")
    answers = read_answers(tmp_path / "page.html")
    steps = {name: [one["checkpoints"][-1]["step"] for one in answers if one["command"] == name]
             for name in ("state", "breakdown", "check")}  # fmt: skip
    assert steps["check"] == [440] and len(steps["breakdown"]) == len(list(run.glob("step-*"))) - 1
    (check,) = (one for one in answers if one["command"] == "check")
    assert all(not one["findings"] for one in answers if one is not check)
    assert len({one["tool"]["seconds"] for one in answers}) == len(answers)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f'<h1 class="{check["result"]["verdict"]}">' in page and "Safe relative step." in page
    again, out, _ = call("page.html")
    assert again == 0 and out == page, "a page that is opened again is the same"


def test_saved_answers_are_drawn_without_being_asked_again(call: Call, make_breakdown: Callable[..., Any]) -> None:
    for step in (1, 2):
        Path(f"{step}.json").write_text(json.dumps(make_breakdown(step)), encoding="utf-8")
    code, out, _ = call("1.json", "2.json")
    assert code == 0 and "Safe relative step." in out
    code, out, _ = call("1.json", "2.json", "--format", "tsv")
    assert out.splitlines() == ["command\tstep\tcheckpoint", "breakdown\t1\trun/step-1", "breakdown\t2\trun/step-2"]
    code, out, _ = call("1.json", "--json")
    told = json.loads(out)
    assert code == 0 and told["command"] == "report" and told["result"]["answers"] == [make_breakdown(1)]
    assert call("1.json", "--format", "rich")[1] == "Nothing wrong in 1 answer: breakdown.\nWhat now: Train on.\n"


def test_findings_gate_a_job(call: Call, make: Callable[..., Any]) -> None:
    finding = {"code": "odd", "severity": "warn", "message": "is odd", "layer": None, "hint": ""}
    Path("one.json").write_text(json.dumps(make("state", {}, findings=[finding])), encoding="utf-8")
    assert call("one.json", "-o", "a.html")[0] == 0
    assert call("one.json", "-o", "b.html", "--fail-on", "warn")[0] == 10 and Path("b.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none.json",), 3, "'none.json' does not exist"),
        (("broken.html",), 3, "'broken.html' does not hold answers of fromage-diag"),
        (("broken.html", "-o", "x.pdf"), 2, "Extensions are .html"),
        ((), 2, ""),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Call, arguments: tuple[str, ...], code: int, words: str) -> None:
    Path("broken.html").write_text("<html></html>", encoding="utf-8")
    found, out, err = call(*arguments)
    assert (found, out) == (code, "") and words in err and "Traceback" not in err


def test_a_terminal_is_asked_for_a_file(call: Call, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]) -> None:
    Path("one.json").write_text(json.dumps(make("state", {})), encoding="utf-8")
    monkeypatch.setattr("fromage_cli.terminal.streams.is_terminal", lambda stream: True)
    code, _, err = call("one.json")
    assert code == 2 and "An HTML page is not for a terminal." in err and "-o report.html" in err
    code, _, err = call("nosuch")
    assert code == 3 and "'nosuch' does not exist" in err
    assert call(SAMPLES / "mlp-2", "--model", "none.py:build")[0] == 2, "before the run is asked"


def test_where_the_page_was_written_is_said(call: Call, make: Callable[..., Any]) -> None:
    Path("one.json").write_text(json.dumps(make("state", {})), encoding="utf-8")
    assert call("one.json", "-o", "a.html") == (0, "", "note: the page was written to a.html\n")
    assert call("one.json", "-o", "b.html", "-q") == (0, "", "")
    assert call("one.json", "-q", "--json", "-o", "c.json") == (0, "", "") and call("one.json")[2] == ""


def test_answers_about_two_networks_are_refused(call: Call, make_breakdown: Callable[..., Any]) -> None:
    other = make_breakdown(2)
    other["result"]["layers"] = [{"name": "else.where"}]
    for name, told in (("one.json", make_breakdown(1)), ("two.json", other)):
        Path(name).write_text(json.dumps(told), encoding="utf-8")
    code, out, err = call("one.json", "two.json")
    assert (code, out) == (2, "") and "have no layer in common" in err and "Make one page for each." in err


def test_only_report_writes_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["inspect", str(SAMPLES / "mlp-2"), "-o", str(tmp_path / "x.html")])
    assert exit.value.code == 2 and "no format goes with" in capsys.readouterr().err


def test_the_cost_is_told_and_nothing_is_written(call: Call, tmp_path: Path) -> None:
    code, out, _ = call(SAMPLES / "mlp-2", "--estimate", "-o", "page.html")
    assert (code, out.split("\t")[0], list(tmp_path.iterdir())) == (0, "gradients", [])
    code, out, _ = call(SAMPLES / "mlp-2", "--estimate", "--json")
    told = json.loads(out)["result"]["estimate"]
    assert code == 0 and told["gradients"] > 38.0 and told["seconds"] > 0.0
    call(SAMPLES / "mlp-2", "--json", "-o", "run.json")
    saved = json.loads(call("run.json", "--estimate", "--json")[1])["result"]["estimate"]
    assert (saved["gradients"], saved["seconds"]) == (0.0, 0.0)
