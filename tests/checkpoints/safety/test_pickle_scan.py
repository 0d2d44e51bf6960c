import gzip
import pickle
import pickletools
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints.safety import pickle_scan
from fromage_cli.checkpoints.safety.pickle_scan import Scanned, scan
from fromage_cli.errors import InputError


class Payload:
    def __reduce__(self):
        return eval, ("1",)


class Hidden:
    """A pickle inside of a pickle, for a loader to load."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return pickle.loads, (self.content,)


def named(scanned):
    return [name.dotted for name in scanned.names]


def globals_of(content):
    """The names in a pickle, as Python's own reader of opcodes finds them."""
    return {
        argument.replace(" ", ".") for opcode, argument, _ in pickletools.genops(content) if opcode.name == "GLOBAL"
    }


def test_the_names_are_those_that_pythons_reader_finds(tmp_path):
    content = pickle.dumps([Payload(), torch.Size([1]), torch.float32], 2)
    (tmp_path / "x.pkl").write_bytes(content)
    (found,) = scan(tmp_path / "x.pkl")
    assert (found.file, found.part, found.kind, found.fault) == (tmp_path / "x.pkl", "", "pickle", "")
    assert set(named(found)) == globals_of(content)


def test_each_pickle_says_where_it_stands(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Hidden(pickle.dumps(Payload()))))
        archive.writestr("x/code/net.py", "1 / 0")
        archive.writestr("x/data/0", bytes(8))
    assert [(found.part, found.kind, named(found)) for found in scan(tmp_path / "x.pt")] == [
        ("x/data.pkl", "pickle", ["_pickle.loads"]),
        ("x/data.pkl > bytes", "pickle", ["builtins.eval"]),
        ("x/code/net.py", "graph", []),
    ]


def test_the_files_of_a_directory_come_in_their_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "code.py").write_text("1")
    (tmp_path / "b" / "z.pkl").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "c.gz").write_bytes(gzip.compress(pickle.dumps(Payload())))
    save_file({"w": torch.ones(2)}, tmp_path / "d.safetensors")
    assert [(found.file.name, found.kind) for found in scan(tmp_path)] == [
        ("a.pkl", "pickle"), ("c.gz", "other"), ("code.py", "code"), ("z.pkl", "pickle"),
    ]  # fmt: skip


@pytest.mark.parametrize("depth", [1, 3, 4, 6])
def test_what_lies_deeper_is_told_and_not_looked_into(tmp_path, depth):
    content = pickle.dumps(Payload())
    for _ in range(depth):
        content = pickle.dumps(Hidden(content))
    (tmp_path / "x.pkl").write_bytes(content)
    found = list(scan(tmp_path / "x.pkl"))
    seen = any("builtins.eval" in named(each) for each in found)
    assert seen == (depth <= pickle_scan.MOST_NESTED)
    assert any(each.fault.endswith("was not looked into") for each in found) != seen


def test_no_more_files_and_pickles_than_the_limits_are_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_scan, "MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(pickle.dumps(Payload()) * 9)
    found = list(scan(tmp_path))
    assert found[-1] == Scanned(tmp_path, "", kind="other", fault="only 2 of its files were looked into")
    assert [each.fault for each in found if each.file.name == "a"][-1] == (
        "what follows its first 8 pickles was not looked into"
    )
    assert [named(each) for each in found if each.file.name == "b"][:8] == [["builtins.eval"]] * 8


def test_a_path_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(scan(tmp_path / "nothing"))
