import inspect
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.progress import Progress

from fromage_cli import __version__
from fromage_cli.cli import build_program, load_command, main
from fromage_cli.diagnostics import COMMANDS, EXAMPLES, SYMPTOMS
from fromage_cli.own_commands import OWN_COMMANDS, OWN_EXAMPLES
from fromage_cli.problem.evaluation.problem import Evaluations
from fromage_cli.terminal.progress import _BAR, _Bar

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, str(ROOT / "tests" / "terminal" / "fake_program.py")]
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "PYTHONPATH": str(ROOT),
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
}


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, **environment}
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, encoding="utf-8", timeout=300, check=False)


def run_shell(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", script]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=300, check=False
    )


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=300, check=False
    )


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(arguments, tmp_path):
    outcome = run(*arguments, cwd=tmp_path)
    assert outcome.returncode == 0
    assert outcome.stderr == ""
    for words in ("measure", "Measure something small.", "other-one", "Examples", "--version", "--install-completion"):
        assert words in outcome.stdout


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag, tmp_path):
    outcome = run(flag, cwd=tmp_path)
    assert (outcome.returncode, outcome.stdout) == (0, f"fromage-diag {__version__}\n")


def test_completion_names_the_commands(tmp_path):
    outcome = run(cwd=tmp_path, _FROMAGE_DIAG_COMPLETE="complete_bash", COMP_WORDS="fromage-diag me", COMP_CWORD="1")
    assert outcome.returncode == 0
    assert outcome.stdout.split() == ["measure"]


@pytest.mark.parametrize("name", ["", *COMMANDS, *OWN_COMMANDS])
def test_help_fits_and_splits_no_word(name, tmp_path):
    outcome = run_python(f"from fromage_cli.cli import main; main(['{name or '--help'}', '-h'])", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert all(len(line) <= 80 and not re.search(r"[a-z]-$", line) for line in lines), outcome.stdout
    assert "Examples:" in lines and "Exit codes:" in lines
    assert [line.split()[0] for line in lines[lines.index("Exit codes:") + 1 :]] == [
        *("0", "1", "2", "3", "4", "5", "6", "7", "10", "11", "130")
    ]


@pytest.mark.parametrize("name", COMMANDS | OWN_COMMANDS)
def test_examples_take_flags_that_there_are(name):
    flags = {flag for parameter in build_program().command(name).params for flag in parameter.opts}
    for line, words in (EXAMPLES | OWN_EXAMPLES)[name]:
        assert f"{name} " in line and words
        assert {word for word in line.split(f"{name} ")[1].split() if word.startswith("--")} <= flags, line


def test_every_symptom_leads_to_a_command(tmp_path):
    outcome = run_python("from fromage_cli.cli import main; main(['-h'])", tmp_path)
    for seen, line, answer in SYMPTOMS:
        assert line.split()[0] in COMMANDS and f"  {seen} " in outcome.stdout and answer in outcome.stdout
    assert "wrong labels" in outcome.stdout


def test_help_imports_neither_torch_nor_numpy(tmp_path):
    code = f"""
import sys
from fromage_cli import cli
for arguments in [["--help"], *([name, "--help"] for name in {[*COMMANDS, *OWN_COMMANDS]!r})]:
    try:
        cli.main(arguments)
    except SystemExit as exit:
        assert exit.code == 0, (arguments, exit.code)
    assert not {{"torch", "numpy"}} & set(sys.modules), arguments
"""
    outcome = run_python(code, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("Usage: fromage-diag") == 1 + len(COMMANDS) + len(OWN_COMMANDS)


@pytest.mark.parametrize(("arguments", "imported"), [(["--help"], []), (["norms", "--help"], ["norms"])])
def test_help_imports_no_command_but_its_own(arguments, imported, tmp_path):
    code = f"""
import sys
from fromage_cli import cli
try:
    cli.main({arguments!r})
except SystemExit as exit:
    assert exit.code == 0, exit.code
found = [name.split(".")[2] for name in sys.modules if name.endswith(".command") and ".diagnostics." in name]
assert found == {imported!r}, found
"""
    outcome = run_python(code, tmp_path)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("name", COMMANDS | {"watch": ""})
def test_the_table_of_contents_has_each_commands_first_line(name):
    first_line, _, _ = inspect.getdoc(load_command(name)).partition("\n")
    assert (COMMANDS | OWN_COMMANDS)[name] == first_line


@pytest.mark.parametrize("direction", ["fromage", "adam"])
def test_a_breakdown_imports_no_compiler(direction, tmp_path):
    sample = ROOT / "sample_checkpoints/mlp-2/step-000440.safetensors"
    code = f"""
import sys
from fromage_cli import cli
try:
    cli.main(["breakdown", {str(sample)!r}, "--eta", "0.001,0.01", "--direction", {direction!r}])
except SystemExit as exit:
    assert exit.code == 0, exit.code
assert not {{"torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy"}} & set(sys.modules)
"""
    outcome = run_python(code, tmp_path)
    assert outcome.returncode == 0, outcome.stderr


def test_the_terminal_imports_neither_torch_nor_numpy(tmp_path):
    code = """
import importlib, pkgutil, sys
import fromage_cli.terminal
for module in pkgutil.walk_packages(fromage_cli.terminal.__path__, "fromage_cli.terminal."):
    importlib.import_module(module.name)
assert not {"torch", "numpy", "click"} & set(sys.modules)
"""
    assert run_python(code, tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("how", "code", "name"),
    [
        ("well", 0, None),
        ("bug", 1, "bug"),
        ("eof", 1, "bug"),
        ("usage", 2, "usage"),
        ("input", 3, "input"),
        ("missing-file", 3, "input"),
        ("exit", 3, "input"),
        ("unsafe", 4, "unsafe"),
        ("mismatch", 5, "mismatch"),
        ("numerics", 6, "numerics"),
        ("resources", 7, "resources"),
        ("memory", 7, "resources"),
        ("interrupt", 130, "interrupted"),
        ("terminate", 143, "terminated"),
    ],
)
def test_every_exit_code_with_its_envelope(how, code, name, tmp_path):
    outcome = run("measure", "--how", how, "--json", cwd=tmp_path)
    assert outcome.returncode == code
    document = json.loads(outcome.stdout)
    assert document["schema"] == "fromage-diag/1"
    assert document["command"] == "measure"
    assert document["settings"]["how"] == how
    assert "Traceback" not in outcome.stderr
    if name is not None:
        assert document["status"] == "error"
        assert document["result"] is None
        assert document["error"]["code"] == name
        assert outcome.stderr.startswith("error: ")
        assert len(outcome.stderr.splitlines()) <= 6


def test_without_json_an_error_leaves_standard_output_empty(tmp_path):
    outcome = run("measure", "--how", "mismatch", cwd=tmp_path)
    assert outcome.stdout == ""
    assert outcome.stderr == "error: mismatch happened.\nhint: do this (-v lists all 30)\n"


def test_verbose_lists_all_details_and_debug_shows_the_traceback(tmp_path):
    verbose = run("measure", "--how", "mismatch", "-v", cwd=tmp_path)
    assert "key 29" in verbose.stderr
    assert "Traceback" not in verbose.stderr
    for how in ("mismatch", "bug"):
        assert "Traceback (most recent call last)" in run("measure", "--how", how, "--debug", cwd=tmp_path).stderr
    assert "This is a bug in fromage-diag" in run("measure", "--how", "bug", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("severity", "fail_on", "code"),
    [
        ("warn", "never", 0),
        ("fail", "never", 0),
        ("warn", "warn", 10),
        ("warn", "fail", 0),
        ("fail", "warn", 11),
        ("fail", "fail", 11),
        ("info", "warn", 0),
    ],
)
def test_fail_on(severity, fail_on, code, tmp_path):
    outcome = run("measure", "--severity", severity, "--fail-on", fail_on, "--json", cwd=tmp_path)
    assert outcome.returncode == code
    assert json.loads(outcome.stdout)["status"] == {"info": "ok"}.get(severity, severity)


def test_a_command_may_fail_by_default(tmp_path):
    assert run("other-one", "x", "--json", cwd=tmp_path).returncode == 11
    assert run("other-one", "x", "--json", "--fail-on", "never", cwd=tmp_path).returncode == 0


def test_a_partial_answer_is_shown_with_its_error(tmp_path):
    outcome = run("measure", "--how", "partial", "--json", cwd=tmp_path)
    assert outcome.returncode == 6
    document = json.loads(outcome.stdout)
    assert document["status"] == "error"
    assert document["error"] == {"code": "numerics", "message": "did not converge.", "hint": "more steps"}
    assert document["result"]["direction"] == "fromage"
    table = run("measure", "--how", "partial", cwd=tmp_path)
    assert table.returncode == 6
    assert table.stdout.startswith("name\teta\n")
    assert "error: did not converge." in table.stderr
    file = run("measure", "--how", "partial", "-o", "a.json", cwd=tmp_path)
    assert (file.returncode, file.stdout) == (6, "")
    assert json.loads((tmp_path / "a.json").read_text())["error"]["code"] == "numerics"


@pytest.mark.parametrize(
    "arguments",
    [
        ("measure", "--jsno", "--json"),
        ("measure", "--format=json", "--seed", "x"),
        ("measure", "--format", "json", "a", "b"),
        ("measure", "-o", "x.json", "--mode", "fast"),
        ("measure", "-ox.json", "--mode", "fast"),
        ("measure", "--output=x.jsonl", "--mode", "fast"),
        ("measure", "--json", "--format", "tsv"),
        ("measure", "--json", "--table", "none"),
        ("mesure", "--json"),
        ("--json", "measure"),
        ("--json",),
        ("other-one", "--json"),
    ],
)
def test_a_wrong_command_line_still_gets_its_envelope(arguments, tmp_path):
    outcome = run(*arguments, cwd=tmp_path)
    assert outcome.returncode == 2
    written = [path.read_text() for path in tmp_path.iterdir()]  # with -o the envelope goes there
    document = json.loads(outcome.stdout or written[0])
    assert (document["status"], bool(outcome.stdout)) == ("error", not written)
    assert document["error"]["code"] == "usage"
    assert outcome.stderr.startswith("error: ")
    assert len(outcome.stderr.splitlines()) <= 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("measure", "--modle", "x"), ["--modle", "--model"]),
        (("measure", "--sed=3"), ["--sed", "--seed"]),
        (("mesure",), ["'mesure'", "measure"]),
        (("--seed", "3", "measure"), ["--seed", "after the command"]),
        (("measure", "--format"), ["--format", "requires an argument"]),
        (("measure", "a", "b"), ["unexpected", "b"]),
        (("other-one",), ["first", "missing"]),
        (("measure", "--table", "none"), ["none", "layers, curve"]),
        (
            (
                "measure",
                "--\x1b[31mx",
            ),
            [r"\x1b[31m"],
        ),
    ],
)
def test_usage_errors_say_what_came_and_what_was_near(arguments, words, tmp_path):
    outcome = run(*arguments, cwd=tmp_path)
    assert outcome.returncode == 2
    assert outcome.stdout == ""
    for word in words:
        assert word in outcome.stderr
    assert "\x1b" not in outcome.stderr


def test_the_table_of_a_pipe(tmp_path):
    outcome = run("measure", "--severity", "warn", cwd=tmp_path)
    assert outcome.stdout == "name\teta\na.weight\t0.1\ntab\\there\\x1b[31m[bold]η\\u202e.weight\tnan\nc.weight\t\n"
    assert outcome.stderr == "note: said beside\nwarn: a.weight: it is hot (cool it) [too-hot]\n"
    quiet = run("measure", "--severity", "warn", "-q", cwd=tmp_path)
    assert (quiet.stdout, quiet.stderr) == (outcome.stdout, "")
    assert run("measure", "--table", "curve", cwd=tmp_path).stdout == "eta\tlayer\n0.5\ta\n"
    assert run("measure", "--format", "csv", cwd=tmp_path).stdout.startswith("name,eta\na.weight,0.1\n")


def test_json_lines_is_one_line(tmp_path):
    outcome = run("measure", "--format", "jsonl", cwd=tmp_path)
    assert outcome.stdout.count("\n") == 1
    document = json.loads(outcome.stdout)
    assert document["nonfinite"] == [{"path": "result.layers[1].eta", "value": "nan"}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.tsv", "a.csv", "a.md", "a.txt", "a.xml", "a.prom"])
def test_into_a_file(name, tmp_path):
    outcome = run("measure", "-o", name, "--severity", "warn", cwd=tmp_path, COLUMNS="40")
    assert (outcome.returncode, outcome.stdout) == (0, "")
    text = (tmp_path / name).read_text("utf-8")
    assert ("a.weight" in text or "(*.weight)" in text) and "\x1b" not in text and "\u202e" not in text
    assert run("measure", "-o", name, cwd=tmp_path).returncode == 3
    assert run("measure", "-o", name, "--force", cwd=tmp_path).returncode == 0


def test_an_existing_file_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "a.tsv").write_text("mine")
    outcome = run("measure", "-o", "a.tsv", "--how", "bug", cwd=tmp_path)
    assert outcome.returncode == 3
    assert "--force" in outcome.stderr
    assert (tmp_path / "a.tsv").read_text() == "mine"


def test_an_input_is_never_overwritten(tmp_path):
    (tmp_path / "model.json").write_text("mine")
    (tmp_path / "link.json").symlink_to("model.json")
    for arguments in (
        ("model.json", "-o", "model.json"),
        ("model.json", "-o", "link.json"),
        ("--batch", "model.json", "-o", "./model.json"),
        ("--loss", "model.json:f", "-o", "model.json"),
    ):
        outcome = run("measure", *arguments, "--force", cwd=tmp_path)
        assert outcome.returncode == 2, arguments
        assert "input" in outcome.stderr
    assert (tmp_path / "model.json").read_text() == "mine"


@pytest.mark.parametrize("how", ["mismatch", "bug", "missing-file", "interrupt", "terminate"])
def test_an_error_goes_into_the_file_that_the_answer_would_go_to(how, tmp_path):
    for name in ("a.json", "b.jsonl"):
        outcome = run("measure", "-o", name, "--how", how, cwd=tmp_path)
        document = json.loads((tmp_path / name).read_text())
        assert (outcome.stdout, document["status"], document["result"]) == ("", "error", None)
    outcome = run("measure", "-o", "none/a.json", "--how", how, cwd=tmp_path)
    assert json.loads(outcome.stdout)["error"]["code"] == "input"
    assert run("measure", "-o", "a.tsv", "--how", how, cwd=tmp_path).stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.jsonl"]


def test_the_last_file_stays_when_the_run_fails(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    outcome = run("measure", "-o", "a.json", "--force", "--how", "mismatch", cwd=tmp_path)
    assert outcome.returncode == 5
    assert json.loads(outcome.stdout)["error"]["code"] == "mismatch"
    assert (tmp_path / "a.json").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("arguments", ["measure --rows 200000", "measure --rows 50000 --json", "--help", "measure -h"])
def test_a_closed_pipe_ends_quietly(arguments, tmp_path):
    program = " ".join(PROGRAM)
    script = f"{{ {program} {arguments}; echo $? >code; }} 2>err | head -c 1 >/dev/null; exit 0"
    if "rows" not in arguments:
        script = f"{{ sleep 0.5; {program} {arguments}; echo $? >code; }} 2>err | true; exit 0"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=300)
    for _ in range(200):
        if (tmp_path / "code").exists() and (tmp_path / "code").read_text():
            break
        time.sleep(0.05)
    assert (tmp_path / "code").read_text() == "141\n"
    assert (tmp_path / "err").read_text().replace("note: said beside\n", "") == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", ["", "--json"])
def test_a_full_disk_behind_standard_output(flags, tmp_path):
    script = f"{' '.join(PROGRAM)} measure {flags} >/dev/full"
    outcome = run_shell(script, tmp_path)
    assert outcome.returncode == 3
    assert "No space left" in outcome.stderr
    assert "Traceback" not in outcome.stderr and "Exception ignored" not in outcome.stderr


def test_closed_streams(tmp_path):
    for redirection, code in ((">&-", 3), ("2>&-", 0), (">&- 2>&-", 3)):
        script = f"{' '.join(PROGRAM)} measure {redirection}"
        outcome = run_shell(script, tmp_path)
        assert outcome.returncode == code, redirection


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals(number, code, name, tmp_path):
    command = [*PROGRAM, "measure", "--how", "sleep", "--json", "-o", "a.json", "--force"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "asleep\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == f"error: {name}.\n"
    assert (out, [path.name for path in tmp_path.iterdir()]) == ("", ["a.json"])
    assert json.loads((tmp_path / "a.json").read_text())["error"]["code"] == name


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "cp1252"}]
)
@pytest.mark.parametrize("flags", [("--format", "rich"), (), ("--json",), ("--format", "md"), ("--help",)])
def test_streams_of_ascii(environment, flags, tmp_path):
    outcome = run("measure", "--severity", "fail", *flags, cwd=tmp_path, **environment)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.isascii() and outcome.stderr.isascii()
    if "rich" in flags:
        assert "trust eta" in outcome.stdout
        assert "2x3" in outcome.stdout


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_pages_fit_their_width(columns, tmp_path):
    outcome = run("measure", "--format", "rich", "--severity", "warn", cwd=tmp_path, COLUMNS=str(columns))
    assert outcome.returncode == 0
    assert all(len(line) <= columns for line in outcome.stdout.splitlines())
    assert "trust η" in outcome.stdout
    assert "\x1b" not in outcome.stdout


def on_a_terminal(*arguments: str, cwd: Path, program: Sequence[str] = PROGRAM, **environment: str) -> tuple[int, str]:
    parent, child = pty.openpty()
    env = {**ENVIRONMENT, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        [*program, *arguments], cwd=cwd, env=env, stdin=child, stdout=child, stderr=child, close_fds=True
    )
    os.close(child)
    seen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([parent], [], [], 0.1)[0]:
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            seen += piece
    os.close(parent)
    return process.wait(timeout=30), seen.decode("utf-8")


def test_a_terminal_gets_a_page_with_colour_and_a_bar(tmp_path):
    code, seen = on_a_terminal("measure", "--severity", "fail", cwd=tmp_path)
    assert code == 0
    assert "trust η" in seen
    assert "\x1b[1;31mfail" in seen
    assert "measuring" in seen
    assert "\x1b[31m[bold]" not in seen


SAYS_WHEN_LIBRARIES_LOAD = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy"):
            sys.stderr.write(f"<{name}>")
            sys.stderr.flush()

sys.meta_path.insert(0, Finder())
from fromage_cli.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_bar_is_drawn_before_torch_and_numpy_are_loaded(command, tmp_path):
    sample = ROOT / "sample_checkpoints" / "mlp-2"
    files = [sample / "step-000220.safetensors", sample / "step-000440.safetensors"]
    given = files if command == "distance" else [sample]
    given = [sample.parent / "char-gpt"] if command == "state" else given
    more = {"inspect": ["--headers"]}.get(command, ["--estimate"])
    more += ["--val-batch", str(sample / "batch.safetensors")] if command == "hypergrad" else []
    program = [sys.executable, "-c", SAYS_WHEN_LIBRARIES_LOAD]
    code, seen = on_a_terminal(command, *map(str, given), *more, cwd=tmp_path, program=program)
    assert code == 0
    loaded = [seen.index(word) for word in ("<numpy>", "<torch>") if word in seen]
    assert 0 <= seen.find(f"{command}: reading") < min(loaded, default=len(seen))


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        (["inspect", "mlp-2", "--spectrum"], ["reading mlp-2", "singular values of"]),
        (
            ["suggest-lr", "mlp-2", "--probe", "none"],
            ["checking that the loss is the same when computed twice", "the next update"],
        ),
        (["norms", "convnet-lars"], ["reading step-000000.safetensors", "reading step-002970.safetensors"]),
        (
            ["norms", "convnet-lars", "--model", "models.py:convnet", "--optimizer", "lars"],
            ["testing which layers are scale-invariant, 1 of 4", "reading step-002970.safetensors"],
        ),
        (
            ["intrinsic-lr", "convnet-sgd", "--model", "models.py:convnet"],
            ["testing which layers are scale-invariant, 4 of 4", "gradients of training batches", "how far layers"],
        ),
        (["sharpness", "mlp-2"], ["building the network", "largest curvature, product 3", "the next update"]),
        (
            ["distance", "mlp-2/step-000022.safetensors", "mlp-2/step-000440.safetensors", "--model", "auto"],
            ["layers.0.weight, 1 of 2", "the outputs of both networks on the batch"],
        ),
        (["breakdown", "mlp-2"], ["loading torch", "step 3 of 17", "how deep the network is"]),
    ],
)
def test_a_bar_names_the_stage_and_only_goes_forward(arguments, stages, monkeypatch, capsys):
    """Its end is never reached, and it begins again only where what takes the time begins."""
    monkeypatch.chdir(ROOT / "sample_checkpoints")
    monkeypatch.setattr("fromage_cli.terminal.streams.is_terminal", lambda stream: True)
    seen = []

    def update(self, task, *, completed, total, description):
        original(self, task, completed=completed, total=total, description=description)
        seen.append((description, None if total is None else round(completed / total, 9)))

    original = Progress.update
    monkeypatch.setattr(Progress, "update", update)
    advance = _Bar.advance
    monkeypatch.setattr(Evaluations, "__setattr__", lambda self, *told: (object.__setattr__(self, *told), look())[0])

    def look():
        if _BAR.get() is not None:
            advance(_BAR.get())

    with pytest.raises(SystemExit) as left:
        main([*arguments, "--format", "tsv"])
    assert left.value.code == 0
    words = [description for description, _ in seen]
    places = [next(i for i, said in enumerate(words) if said.startswith(f"{arguments[0]}: {one}")) for one in stages]
    assert places == sorted(places)
    shares = [share for _, share in seen if share is not None]
    assert shares == sorted(shares) and 0.2 < shares[-1] < 0.99


def test_no_color_and_a_dumb_terminal(tmp_path):
    _, without = on_a_terminal("measure", "--severity", "fail", "--no-progress", cwd=tmp_path, NO_COLOR="1")
    assert "31m" not in without.replace(r"\x1b[31m", "")
    _, dumb = on_a_terminal("measure", "--severity", "fail", "--no-progress", cwd=tmp_path, TERM="dumb")
    assert "\x1b" not in dumb
    _, quiet = on_a_terminal("measure", "-q", cwd=tmp_path)
    assert "measuring" not in quiet


def test_warnings_of_libraries_are_one_line_and_only_verbose(tmp_path):
    assert "old" not in run("measure", "--how", "warning", cwd=tmp_path).stderr
    lines = run("measure", "--how", "warning", "-v", cwd=tmp_path).stderr.splitlines()
    assert [line for line in lines if line.startswith("warning: UserWarning: old fashioned (fake_program.py:")]


def test_a_working_directory_that_is_gone(tmp_path):
    script = f"mkdir gone && cd gone && rmdir ../gone && {' '.join(PROGRAM)} measure"
    outcome = run_shell(script, tmp_path)
    assert outcome.returncode == 0, outcome.stderr


def test_an_interrupt_while_the_program_is_imported_is_quiet(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "fromage_cli", "inspect", "--help"]
    for module in (b"typer.", b"fromage_cli.stopping", b"fromage_cli.terminal.plain"):  # others are under way then
        process = subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        for line in process.stderr:
            if module in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert b"Traceback" not in err and b"KeyboardInterrupt" not in err


MLP = ROOT / "sample_checkpoints/mlp-2"
AT_440 = str(MLP / "step-000440.safetensors")
GPT = str(ROOT / "sample_checkpoints/char-gpt/step-000860.pt")
CALLS = {
    "check": ([AT_440], [GPT]),
    "inspect": ([AT_440], [AT_440, "--headers"], [AT_440, "--spectrum"], [GPT]),
    "breakdown": ([AT_440, "--eta", "1e-3,1e-2"],),
    "suggest-lr": (
        [AT_440, "--probe", "none"],
        [AT_440, "--probe", "none", "--optimizer", "sgd"],
        [AT_440, "--probe", "none", "--optimizer", "adam", "--lr", ".1", "--verify", "2"],
    ),
    "norms": ([str(MLP)], [AT_440, "--model", "auto"]),
    "intrinsic-lr": ([str(MLP), "--optimizer", "sgd"], [AT_440, "--optimizer", "adamw", "--lr", "1e-3"]),
    "sharpness": ([AT_440], [AT_440, "--optimizer", "adamw", "--lr", "1e-3"]),
    "hypergrad": (
        [AT_440, "--val-batch", str(MLP / "batch.safetensors"), "--method", "unroll:1"],
        [AT_440, "--val-batch", str(MLP / "batch.safetensors"), "--optimizer", "sgd", "--method", "gauss-newton"],
    ),
    "state": ([GPT], [str(ROOT / "sample_checkpoints/convnet-sgd")]),
    "distance": ([str(MLP / "step-000220.safetensors"), AT_440], [AT_440, AT_440, "--model", "auto"]),
}
"""Calls of every command that leave something unknown."""
DO_NOT_EXIST = {
    "inspect.key": "the tensors lie in no nested dictionary",
    "inspect.optimizer": "no state was saved",
    "inspect.optimizer.groups[].momentum": "the optimizer has none",
    "breakdown.limiting_layer": "no layer limits",
    "breakdown.decay_left_out": "no decay was left out",
    "breakdown.trust_eta_upper": "the place itself is known",
    "breakdown.layers[].trust_eta_upper": "the place itself is known",
    "breakdown.aggregate_trust_eta_upper": "the place itself is known",
    "breakdown.argmin_loss_eta_upper": "the place itself is known",
    "breakdown.first_increase_eta_upper": "the place itself is known",
    "suggest-lr.contradiction": "the loss changes as its gradient says",
    "suggest-lr.optimizer.name": "no optimizer is known",
    "suggest-lr.stability.diverged_from": "no run of the study diverged below the threshold",
    "suggest-lr.optimizer.momentum": "the optimizer has none",
    "suggest-lr.optimizer.betas": "the optimizer has none",
    "suggest-lr.recommended.estimator": "no rate is recommended",
    "norms.optimizer": "no optimizer is known",
    "norms.layers[].kind": "there is no model",
    "norms.layers[].dead_bias": "there is no bias, or no model",
    "norms.layers[].invariance.granularity": "the layer is not invariant",
    "norms.layers[].invariance.parts": "the layer is not invariant",
    "norms.layers[].invariance.part_cosine": "the layer has no parts with a scale of their own",
    "norms.layers[].invariance.axis": "the layer has no parts with a scale of their own",
    "intrinsic-lr.momentum": "the optimizer has none",
    "intrinsic-lr.betas": "the optimizer has none",
    "intrinsic-lr.drop_factor": "no drop was asked for",
    "intrinsic-lr.schedule": "no schedule is known",
    "intrinsic-lr.schedule_doubt": "nothing speaks of another schedule",
    "intrinsic-lr.schedule_gap": "no schedule is known",
    "intrinsic-lr.train_batch_size": "no gradients were taken",
    "intrinsic-lr.layers[].kind": "there is no model",
    "intrinsic-lr.layers[].granularity": "the layer is not invariant",
    "sharpness.optimizer": "no optimizer is known",
    "sharpness.momentum": "the optimizer has none",
    "sharpness.lowest_learning_rate": "its groups do not differ",
    "suggest-lr.optimizer.lowest_learning_rate": "its groups do not differ",
    "hypergrad.optimizer": "no optimizer is known",
    "hypergrad.steps": "no further steps are looked at",
    "hypergrad.copies": "no derivative was taken through steps",
    "hypergrad.hyperparameters[].advised_by": "there is no advice",
    "hypergrad.hyperparameters[].advice": "of single tensors and the rate there is none",
    "hypergrad.hyperparameters[].direction": "of single tensors and the rate there is none",
    "hypergrad.hyperparameters[].answers[].horizon": "it is about where training settles",
    "state.optimizer": "the state is of no known kind",
    "state.layers[].moments_dtype": "there are no moments",
    "state.layers[].rounded_to": "the weights hold more digits",
    "distance.layers[].kind": "there is no model",
}
"""Fields that are null where what they tell of does not exist, rather than that it is not known."""
AS_SAVED = "inspect.optimizer.groups[].settings."
"""Settings as the optimizer saved them, null where it saved that."""


def nulls(value, path):
    """Paths of all nulls in a document whose object does not say why they are missing."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key in value.keys() - value.get("missing", {}).keys():
            yield from nulls(value[key], f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nulls(item, f"{path}[{index}]")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_null_tells_why_it_is_missing_or_stands_for_what_does_not_exist(command, capsys):
    for arguments in CALLS[command]:
        with pytest.raises(SystemExit) as ended:
            main([command, *arguments, "--json"])
        envelope = json.loads(capsys.readouterr().out)
        assert ended.value.code == 0
        infinite = {entry["path"] for entry in envelope["nonfinite"]}
        untold = {re.sub(r"\[\d+\]", "[]", path) for path in {*nulls(envelope["result"], "result")} - infinite}
        paths = {path.replace("result", command, 1).removeprefix("check.results.") for path in untold}
        assert {path for path in paths if not path.startswith(AS_SAVED)} <= DO_NOT_EXIST.keys(), arguments


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["breakdown", "x.pt", "--simulate", "3"], "sharpness has it."),
        (["inspect", "x.pt", "--lr", "0.1"], "Other commands have it."),
        (["inspect", "x.pt", "--optimzer-key", "x"], "Did you mean --optimizer-key"),
        (["--simulate", "3", "breakdown"], "fromage-diag sharpness CKPT --simulate"),
    ],
)
def test_an_unknown_option_is_answered_with_the_command_that_has_it(arguments, hint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and hint in capsys.readouterr().err
