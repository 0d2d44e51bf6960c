import math
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.errors import InputError, ResourceError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, CheckpointRecord, summary
from fromage_cli.terminal.envelope import Circumstances
from fromage_cli.terminal.prometheus import MOST, escaped, metrics, run_of, spelled

CALL = Circumstances("check", {"fail_on": "fail"}, 1.5, ("runs/first/step-7.pt",))
FAIL = Finding("nan-weights", "fail", "3 entries are NaN", "a.weight")
WARN = Finding("norm-jumped", "warn", "its norm went from 1 to 8")
INFO = Finding("note", "info", "so it is", "c.weight")
HOSTILE = Finding("nan-weights", "fail", "bad", 'a"},\\b{\n# HELP x\x00é')


def answer(*findings: Finding, path: str = "runs/first/step-7.pt", **settings: object) -> Answer:
    record = CheckpointRecord(path, "torch", 7, 10)
    table = summary(
        [
            ("loss", 0.1, "loss"),
            ("rate", None, "rate"),
            ("first", "a.w", "layer"),
            ("limit", math.inf, "rate"),
            ("n", 3, ""),
        ]
    )
    tables = {"summary": lambda: table}
    return Answer({}, page=lambda style: "", tables=tables, findings=findings, checkpoints=(record,), **settings)


def samples(text: str) -> dict[str, str]:
    """Value by name and labels, without what all have in common."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    common = 'command="check",run="first"'
    return {
        name.removeprefix("fromage_diag_").replace(f"{{{common},", "{").replace(f"{{{common}}}", ""): value
        for name, _, value in lines
    }


def test_everything_there_is_to_tell():
    before = time.time()
    found = samples(metrics([answer(INFO, WARN, FAIL)], CALL))
    assert before <= float(found.pop("last_run_timestamp_seconds")) <= time.time()
    assert found == {
        "exit_code": "11",
        "duration_seconds": "1.5",
        "verdict": "2",
        'findings{severity="fail"}': "1",
        'findings{severity="warn"}': "1",
        'findings{severity="info"}': "1",
        'finding{severity="fail",code="nan-weights",layer="a.weight"}': "1",
        'finding{severity="warn",code="norm-jumped"}': "1",
        "checkpoint_step": "7",
        'value{name="loss",unit="loss"}': "0.1",
        'value{name="limit",unit="rate"}': "+Inf",
        'value{name="n"}': "3",
    }


@pytest.mark.parametrize(
    ("findings", "fail_on", "verdict", "code"),
    [((), "fail", "0", "0"), ((INFO,), "warn", "0", "0"), ((WARN,), "fail", "1", "0"), ((WARN,), "warn", "1", "10")],
)
def test_the_verdict_is_that_of_the_gravest_finding(findings, fail_on, verdict, code):
    found = samples(metrics([answer(*findings)], Circumstances("check", {"fail_on": fail_on}, None, CALL.checkpoints)))
    assert (found["verdict"], found["exit_code"]) == (verdict, code)


def test_a_call_that_was_not_finished_has_no_verdict():
    cut = samples(metrics([answer(WARN, error=ResourceError("The limit was reached."))], CALL))
    assert (cut["exit_code"], cut.get("verdict"), cut['findings{severity="warn"}']) == ("7", None, "1")
    gone = samples(metrics([InputError("gone.")], CALL))
    assert set(gone) == {"exit_code", "last_run_timestamp_seconds", "duration_seconds"} and gone["exit_code"] == "3"


def test_of_several_checkpoints_each_has_its_own_series():
    others = (answer(FAIL, path="runs/first/step-8.pt"), answer(WARN, path="runs/second/step-8.pt"))
    text = metrics([answer(), *others, InputError("gone.")], CALL)
    found = samples(text)
    assert found['verdict{command="check",run="second",checkpoint="runs/second/step-8.pt"}'] == "1"
    assert found['verdict{checkpoint="runs/first/step-8.pt"}'] == "2" and found["exit_code"] == "3"
    assert len(found) == len([line for line in text.splitlines() if not line.startswith("#")])


def test_a_network_that_is_sick_everywhere_makes_few_series():
    many = [Finding("nan-weights", "warn", "bad", f"layer.{index}") for index in range(1000)]
    found = samples(metrics([answer(*many, FAIL)], CALL))
    assert len([name for name in found if name.startswith("finding{")]) == MOST
    assert found['findings{severity="warn"}'] == "1000"
    assert 'finding{severity="fail",code="nan-weights",layer="a.weight"}' in found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (True, "1"),
        (0.1, "0.1"),
        (1e-30, "1e-30"),
        (10**20, f"{10**20}"),
    ],
)
def test_values_are_spelled_as_prometheus_reads_them(value, text):
    assert spelled(value) == text


def test_labels_are_escaped():
    assert escaped('a\\b"c\nd') == r"a\\b\"c\nd"


@given(st.text())
def test_whatever_a_name_holds_a_sample_is_one_line(layer):
    text = metrics([answer(Finding("a", "fail", "bad", layer))], CALL)
    lines = [line for line in text.split("\n") if line.startswith("fromage_diag_finding{")]
    assert len(lines) == 1 and lines[0].endswith(" 1")
    assert all(line.startswith(("# ", "fromage_diag_")) for line in text.split("\n")[:-1])


@pytest.mark.parametrize(
    ("place", "run"),
    [
        ("runs/first", "first"),
        ("runs/first/", "first"),
        ("runs/first/step-7.pt", "first"),
        ("runs/first/step-*.safetensors", "first"),
        ("runs/first/checkpoint-500", "first"),
        ("runs/first/checkpoint-500/model.safetensors", "first"),
        ("runs/first/1000", "first"),
        ("runs/gpt-0.5", "gpt-0.5"),
        ("s3://bucket/first/step-7.pt", "first"),
        ("gone.pt", "here"),
        (".", "here"),
        ("/", ""),
        ("", ""),
    ],
)
def test_the_run_is_named_alike_for_all_its_checkpoints(tmp_path, monkeypatch, place, run):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_of(place) == run


def every_kind(call) -> str:
    """All metrics that there are, with a hostile name, and the program's own."""
    text = metrics([answer(HOSTILE, WARN), answer(path="b/step-8.pt"), InputError("gone.")], CALL)
    own = call("measure", "--format", "prom", "--severity", "warn", "-q").out
    assert 'fromage_diag_finding{command="measure",severity="warn",code="too-hot",layer="a.weight"} 1' in own
    return text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, in Debian's package prometheus")
def test_promtool_finds_no_fault(call):
    text = every_kind(call)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    broken = text.replace("fromage_diag_verdict{", "fromage_diag_verdict{{", 1)
    assert subprocess.run(
        ["promtool", "check", "metrics"], input=broken, capture_output=True, text=True, check=False
    ).returncode


NODE_EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")


@pytest.mark.skipif(NODE_EXPORTER is None, reason="needs node_exporter, in Debian's package prometheus-node-exporter")
def test_node_exporter_serves_the_file(call, clean):
    (clean / "metrics").mkdir()
    text = every_kind(call)
    Path("metrics/first.prom").write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = ["--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory=metrics"]
    with subprocess.Popen(
        [NODE_EXPORTER, *flags, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL
    ) as server:
        try:
            served = fetched(f"http://{address}/metrics").splitlines()
        finally:
            server.terminate()
    assert "node_textfile_scrape_error 0" in served
    names = [line for line in served if line.startswith("fromage_diag_")]
    assert len(names) == len([line for line in text.splitlines() if not line.startswith("#")])
    assert any(r'layer="a\"},\\b{\\n# HELP x\\x00é"' in line for line in names)


def fetched(address: str) -> str:
    """What a server answers once it has started."""
    for _ in range(100):
        try:
            with urlopen(address, timeout=10) as answer:
                return answer.read().decode()
        except (URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError("the server does not answer")
