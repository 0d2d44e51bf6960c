import json

import pytest

from fromage_cli.errors import InputError, MismatchError, ResourceError
from fromage_cli.terminal.failure import Bug, asked, message_lines, understood


def test_a_message_has_six_lines_at_most_and_always_its_hint():
    error = MismatchError("\n".join(f"line {i}" for i in range(20)), hint="do\nthis", details=["a", "b"])
    lines = message_lines(error, verbose=False)
    assert lines[0] == "error: line 0"
    assert lines[-3:] == ["  line 3", "hint: do", "  this (-v lists all 2)"]
    assert len(lines) == 6
    assert {"  a", "  b"} <= set(message_lines(error, verbose=True))


@pytest.mark.parametrize(
    ("message", "details", "hidden"),
    [
        ("Available: 'a.pt', 'b'.", ["a.pt", "b"], False),
        ("Available: 'a.pt' and 1 more.", ["a.pt", "b"], True),
        ("Available: 'a.pt', 'old-b'.", ["a.pt", "b"], True),
        ("Available: 'a.pt', 'b.pt'.", ["a.pt", "b"], True),
        ("Available: 'a.pt', 'b/c'.", ["a.pt", "b"], True),
        ("There is 'a'.", ["b"], False),
    ],
)
def test_that_verbose_lists_more_is_said_only_where_it_does(message, details, hidden):
    assert ("-v lists all" in " ".join(message_lines(InputError(message, details=details), False))) is hidden


def test_a_message_shows_control_characters_instead_of_sending_them():
    assert message_lines(MismatchError("a\x1b[2Jb", hint="c\u202e"), False) == [r"error: a\x1b[2Jb", r"hint: c\u202e"]


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), ResourceError),
        (OutOfMemoryError("CUDA"), ResourceError),
        (RuntimeError("CUDA error: out of memory"), ResourceError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ResourceError),
        (RuntimeError("shape mismatch"), Bug),
        (FileNotFoundError(2, "No such file or directory", "x.pt"), InputError),
        (OSError(28, "No space left on device"), InputError),
        (OSError("odd"), Bug),
        (ValueError("a\x1bb\nc"), Bug),
    ],
)
def test_exceptions_in_our_own_family(error, kind):
    found = understood(error)
    assert type(found) is kind
    assert "\x1b" not in found.message and "\n" not in found.message
    assert found.hint


@pytest.mark.parametrize(
    ("arguments", "environment", "document"),
    [
        (["x", "--json"], {}, "json"),
        (["x", "--format", "jsonl"], {}, "jsonl"),
        (["x", "--format=json"], {}, "json"),
        (["x", "-o", "a.json"], {}, "json"),
        (["x", "-oa.JSON"], {}, "json"),
        (["x", "--output=a.jsonl"], {}, "jsonl"),
        (["x", "-o", "a.json", "--format", "tsv"], {}, None),
        (["x", "--", "--json"], {}, None),
        (["x"], {"FROMAGE_DIAG_FORMAT": "json"}, "json"),
        (["x", "--format", "tsv"], {"FROMAGE_DIAG_FORMAT": "json"}, None),
        (["x", "--format"], {}, None),
        (["x", "--format", "GitHub"], {}, "github"),
        (["x", "-o", "a.xml"], {}, "junit"),
        (["x", "-oa.prom"], {}, "prom"),
        ([], {}, None),
    ],
)
def test_a_document_asked_for_by_bare_arguments(arguments, environment, document):
    assert asked(arguments, environment).document == document


def test_verbose_and_debug_by_bare_arguments():
    assert asked(["x", "-qv"], {}).verbose
    assert asked(["x", "--verbose", "--debug"], {}).debug
    assert not asked(["x", "-q", "value"], {}).verbose


def test_an_estimate(call):
    document = json.loads(call("measure", "--estimate", "--json").out)
    assert document["result"] == {"estimate": {"gradients": 17.0, "bytes": 4096, "seconds": None}}
    assert call("measure", "--estimate").out == "gradients\tbytes\tseconds\n17.0\t4096\t\n"
    spoken = call("measure", "--estimate", "--format", "rich").out
    assert spoken == "about 4.1 kB (17 gradients of the whole batch)\n"


def test_a_command_must_heed_estimate_or_have_no_such_flag(call):
    heedless = call("measure", "--estimate", "--how", "heedless")
    assert heedless.code == 1
    assert "does not heed --estimate" in heedless.err
    without = call("other-one", "x", "--estimate")
    assert without.code == 2
    assert "There is no option --estimate" in without.err
    assert "hint: Other commands have it." in without.err


def test_a_path_that_nobody_could_read_is_cut_in_the_middle() -> None:
    path = "/data/" + "x" * 3000 + "/step-3"
    (line,) = message_lines(InputError(f"{path} is missing."), verbose=False)
    assert len(line) < 300 and line.startswith("error: /data/xxx") and line.endswith("x/step-3 is missing.")
    assert "…" in line
    short = "/data/" + "x" * 200
    assert message_lines(InputError(short), verbose=False) == [f"error: {short}"]
