import csv
import io
import json
from dataclasses import replace

import pytest
from rich.text import Text

from fromage_cli import cli
from fromage_cli.errors import NumericalError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, CheckpointRecord, records
from fromage_cli.terminal.options import diagnostic


def answer(path, severity=None, error=None) -> Answer:
    row = {"layer": f"{path}.w", "norm": 1.0} | ({"extra": 2} if path == "b" else {})
    return Answer(
        {"path": path},
        page=lambda style: Text(f"page of {path}"),
        tables={"rows": lambda: records([row])},
        findings=(Finding("found", severity, f"in {path}"),) if severity else (),
        checkpoints=(CheckpointRecord(path, "torch", None, 1),),
        notes=(f"note on {path}",),
        error=error,
    )


@pytest.fixture
def many(capsys, clean):
    """Run a command that answers for several checkpoints."""

    def run(answers, *args):
        @diagnostic(tables=(), estimate=False)
        def command() -> list[Answer]:
            """Many answers."""
            return answers

        with pytest.raises(SystemExit) as exit:
            cli.main(["many", *args], cli.build_program({"many": "Many answers."}, {"many": command}.__getitem__))
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


def test_json_of_several_is_an_array_and_of_one_an_object(many):
    code, out, err = many([answer("a"), answer("b", "warn")], "--json")
    first, second = json.loads(out)
    assert code == 0
    assert (first["result"], first["status"]) == ({"path": "a"}, "ok")
    assert (second["result"], second["status"]) == ({"path": "b"}, "warn")
    assert err.splitlines() == ["note: note on a", "note: note on b"]
    assert json.loads(many([answer("a")], "--json")[1])["result"] == {"path": "a"}


def test_nothing_on_a_page_acts_on_the_terminal(many):
    hostile = replace(answer("a", "warn"), page=lambda style: Text("name \x1b[31m \u202e\r end\nnext line", "bold"))
    out = many([hostile], "--format", "rich")[1]
    assert not {"\x1b", "\u202e", "\r"} & set(out)
    assert "name \\x1b[31m \\u202e" in out and "next line\n" in out


def test_json_lines(many):
    lines = many([answer("a"), answer("b")], "--format", "jsonl")[1].splitlines()
    assert [json.loads(line)["result"]["path"] for line in lines] == ["a", "b"]


def test_pages_stand_below_each_other(many):
    assert many([answer("a"), answer("b")], "--format", "rich")[1] == "page of a\n\npage of b\n"


def test_what_the_page_says_itself_is_repeated_under_verbose_alone(many):
    said = replace(answer("a", "warn"), told=("found",))
    assert many([said], "--format", "rich")[1] == "page of a\n"
    assert many([said], "--format", "rich", "-v")[1].startswith("page of a\nwarn  in a\n")
    assert json.loads(many([said], "--json")[1])["status"] == "warn"


def test_one_table_with_the_checkpoint_in_front(many):
    rows = list(csv.DictReader(io.StringIO(many([answer("a"), answer("b")], "--format", "csv")[1])))
    assert [(row["checkpoint"], row["layer"], row["extra"]) for row in rows] == [("a", "a.w", ""), ("b", "b.w", "2")]
    assert many([answer("a")], "--format", "csv")[1].splitlines()[0] == "layer,norm"
    assert "in b" in many([answer("a"), answer("b", "warn")], "--format", "md")[1]
    assert "in b" not in many([answer("a"), answer("b", "warn")], "--format", "md", "-q")[1]


@pytest.mark.parametrize(("severities", "code"), [(("warn", None), 10), (("warn", "fail"), 11), ((None, None), 0)])
def test_the_gravest_answer_decides(many, severities, code):
    answers = [answer(str(index), severity) for index, severity in enumerate(severities)]
    assert many(answers, "--fail-on", "warn", "-q")[0] == code


def test_all_is_shown_before_an_answers_own_error(many):
    code, out, _ = many([answer("a", error=NumericalError("did not converge")), answer("b")], "--json")
    assert code == 6
    assert [envelope["status"] for envelope in json.loads(out)] == ["error", "ok"]
