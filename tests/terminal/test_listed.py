"""Lists of checkpoints on standard input."""

import io
import json
import sys
from pathlib import Path

import pytest

from fromage_cli import cli

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
FILES = [str(SAMPLES / f"mlp-2/step-{step:06}.safetensors") for step in (0, 22, 440)]


@pytest.fixture
def piped(monkeypatch, capsys):
    def run(data: bytes, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as exit:
            cli.main([*arguments, "--json"])
        shown = capsys.readouterr()
        return int(exit.value.code or 0), shown.out, shown.err

    return run


def paths(out: str) -> list[str]:
    envelopes = json.loads(out)
    envelopes = envelopes if isinstance(envelopes, list) else [envelopes]
    return [record["path"] for envelope in envelopes for record in envelope["checkpoints"]]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_names_come_one_a_line_or_after_nul(piped, separator):
    data = separator.join(name.encode() for name in FILES) + separator
    code, out, err = piped(data, "inspect", "-", "--headers")
    assert (code, paths(out)) == (0, FILES), err
    code, out, err = piped(data, "norms", "-")
    assert (code, paths(out)) == (0, FILES), err


def test_a_list_stands_where_its_sign_does(piped):
    _, out, _ = piped(FILES[0].encode(), "inspect", FILES[2], "-", FILES[1], "--headers")
    assert paths(out) == [FILES[2], FILES[0], FILES[1]]


def test_one_checkpoint_is_no_list(piped):
    code, out, err = piped(b"", "breakdown", "-")
    assert code == 2 and "breakdown takes a single CKPT" in err and "xargs" in err
    assert json.loads(out)["error"]["code"] == "usage"
    assert piped(b"", "distance", "-", FILES[0])[0] == 2
    assert piped(b"", "trust", "-")[0] == 2


def test_an_empty_list_is_refused(piped, monkeypatch, capsys):
    code, _, err = piped(b"\n\n", "inspect", "-")
    assert code == 2 and "lists no checkpoint" in err
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as exit:
        cli.main(["inspect", "-"])
    assert exit.value.code == 3 and "closed" in capsys.readouterr().err


def test_a_dash_that_is_an_options_value_lists_nothing(piped):
    code, out, _ = piped(b"", "inspect", FILES[0], "--headers", "-o", "-")
    assert code == 0 and paths(out) == FILES[:1]
