"""What a file would run elsewhere: every name, wherever a pickle stands."""

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.safety import pickle_scan
from fromage_cli.cli import main
from fromage_cli.diagnostics.inspect.findings import judge_safety
from fromage_cli.diagnostics.inspect.safety import survey
from fromage_cli.errors import InputError, UnsafeError


class Payload:
    def __reduce__(self):
        return eval, ("1",)


class Hidden:
    """A pickle of a payload inside of a pickle, for a loader to load."""

    def __reduce__(self):
        return pickle.loads, (pickle.dumps(Payload()),)


def found(path):
    return {(entry.module, entry.name, entry.use, entry.verdict) for entry in survey(path).safety}


EVAL = ("builtins", "eval", "import+call", "dangerous")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save({"w": torch.ones(2), "x": Payload()}, path, pickle_protocol=4),
        lambda path: torch.save([Payload()], path, pickle_protocol=4, _use_new_zipfile_serialization=False),
        lambda path: path.write_bytes(pickle.dumps(Hidden())),
        lambda path: path.write_bytes(pickle.dumps(Payload()) + b"trailing"),
        lambda path: path.write_bytes(pickle.dumps(Payload())[:-1]),
        lambda path: numpy.savez(path.with_suffix(".npz"), w=numpy.array([Payload()], dtype=object)),
        lambda path: numpy.save(path.with_suffix(".npy"), numpy.array([Payload()], dtype=object)),
    ],
    ids=["zip", "legacy", "nested", "trailing", "cut off", "npz", "npy"],
)
def test_a_payload_is_found_wherever_it_stands(tmp_path, write):
    write(tmp_path / "x.pt")
    assert EVAL in found(next(tmp_path.iterdir()))
    assert EVAL in found(tmp_path)


def test_an_archive_in_an_archive_and_code_are_found(tmp_path):
    inner = io.BytesIO()
    torch.save(Payload(), inner, pickle_protocol=4)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data/inputs.pt", inner.getvalue())
        archive.writestr("x/code/net.py", "1 / 0")
    assert EVAL in found(tmp_path / "x.pt")
    assert ("", "x/code/net.py", "code", "dangerous") in found(tmp_path / "x.pt")
    assert survey(tmp_path / "x.pt").safety[0].place == "x/data/inputs.pt > archive/data.pkl"


def test_tensors_are_allowed_and_unknown_classes_inert(tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.ones(2)), "path": Path("a")}, tmp_path / "x.pt")
    verdicts = {f"{entry.module}.{entry.name}": entry.verdict for entry in survey(tmp_path / "x.pt").safety}
    assert verdicts.pop("pathlib.PosixPath") == "inert"
    assert set(verdicts.values()) == {"allowed"}


@pytest.mark.parametrize("content", [b"plain words", b"{}", b""])
def test_files_that_are_no_pickles_have_no_names(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    assert survey(tmp_path).safety == ()


def test_the_command_lists_and_warns(tmp_path, capsys):
    torch.save({"w": torch.ones(2), "x": Payload()}, tmp_path / "x.pt", pickle_protocol=4)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--safety", str(tmp_path / "x.pt"), "--format", "tsv", "--fail-on", "warn"])
    captured = capsys.readouterr()
    assert ended.value.code == 10
    assert "builtins\teval\timport+call\tdangerous" in captured.out
    assert "pickle-runs-code" in captured.err
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--safety", str(tmp_path / "x.pt"), "--format", "rich"])
    assert "1 of 4 names would run code" in " ".join(capsys.readouterr().out.split())
    assert not ended.value.code


SYSTEM = b"cos\nsystem\n(S'true'\ntR."
RUNS_SYSTEM = ("os", "system", "import+call", "dangerous")


@pytest.mark.parametrize(
    "content",
    [
        b"N0" + SYSTEM,
        b"\x80\x02X\x04\x00\x00\x00\x00{ab0" + SYSTEM,
        b"\x80\x02X\x04\x00\x00\x00ab{c0" + SYSTEM,
        b"\x8c\x01a0" + SYSTEM,
    ],
    ids=["any opcode first", "a brace and a length as in safetensors", "a brace", "protocol 4 without its mark"],
)
def test_no_first_bytes_hide_a_pickle(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    assert RUNS_SYSTEM in found(tmp_path / "x.bin")
    assert RUNS_SYSTEM in found(tmp_path)


def nested(depth: int) -> bytes:
    """A pickle that has a loader load another one, and so on."""
    content = SYSTEM
    for _ in range(depth):
        loader = type(
            "Loader", (), {"__reduce__": lambda self, held=content: (torch.storage._load_from_bytes, (held,))}
        )
        content = pickle.dumps(loader())
    return content


def test_what_lies_too_deep_is_told_and_warned_of(tmp_path):
    (tmp_path / "3.pkl").write_bytes(nested(3))
    (tmp_path / "4.pkl").write_bytes(nested(4))
    assert RUNS_SYSTEM in found(tmp_path / "3.pkl")
    assert survey(tmp_path / "3.pkl").unread == ()
    deep = survey(tmp_path / "4.pkl")
    assert "inside 3 levels of pickles or archives" in deep.unread[0]
    (finding,) = judge_safety(deep)
    assert (finding.code, finding.severity, finding.value) == ("not-all-read", "warn", 1.0)


def test_a_reader_takes_what_lies_too_deep_for_code(tmp_path):
    (tmp_path / "4.pkl").write_bytes(nested(4))
    with pytest.raises(UnsafeError, match=r"torch\.load"):
        open_checkpoint(tmp_path / "4.pkl")


def test_archives_in_archives_end(tmp_path):
    content = SYSTEM
    for level in range(400):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("x.pt" if level else "x.pkl", content)
        content = packed.getvalue()
    (tmp_path / "x.pt").write_bytes(content)
    (fault,) = survey(tmp_path / "x.pt").unread
    assert fault.startswith("x.pt > x.pt > x.pt > x.pt: what lies inside 3")


def test_what_is_left_alone_is_told(tmp_path, monkeypatch):
    (tmp_path / "x.pkl.gz").write_bytes(gzip.compress(SYSTEM))
    assert survey(tmp_path / "x.pkl.gz").unread == ("a gzip archive was not looked into",)
    (tmp_path / "model.py").write_text("import os\n")
    assert ("", "model.py", "code", "inert") in found(tmp_path)
    monkeypatch.setattr(pickle_scan, "MOST_FILES", 1)
    (tmp_path / "z.pkl").write_bytes(SYSTEM)
    assert "only 1 of its files were looked into" in survey(tmp_path).unread
    (tmp_path / "many.pkl").write_bytes(b"N." * 9)
    assert "first 8 pickles" in survey(tmp_path / "many.pkl").unread[0]


def test_files_behind_urls_are_looked_into(tmp_path):
    (tmp_path / "x.pkl").write_bytes(SYSTEM)
    for url in ((tmp_path / "x.pkl").as_uri(), f"local://{tmp_path / 'x.pkl'}"):
        assert RUNS_SYSTEM in {(entry.module, entry.name, entry.use, entry.verdict) for entry in survey(url).safety}
    with pytest.raises(InputError, match="is a directory"):
        survey(f"local://{tmp_path}")
