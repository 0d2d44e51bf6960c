"""Names and places: paths that lead elsewhere, names that act on a terminal, things that are no files."""

import json
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

STATE = {"w": torch.ones(2, 2)}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.safetensors"
    save_file(STATE, path)
    return path


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / "checkpoint"
    made.mkdir()
    return made


def index(directory, file):
    (directory / INDEX).write_text(json.dumps({"weight_map": {"w": file}}))
    return directory


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "a/../../secret.safetensors", "..\\secret.safetensors", "C:\\secret", "/dev/zero", "\0"],
)
def test_an_index_that_leaves_its_directory(ask, directory, secret, file):
    ask("inspect", index(directory, file), codes=(4,))
    ask("inspect", index(directory, str(secret)), codes=(4,))


def test_links_out_of_the_directory(ask, directory, secret):
    (directory / "x.safetensors").symlink_to(secret)
    ask("inspect", index(directory, "x.safetensors"), codes=(4,))
    (directory / "up").symlink_to("..")
    ask("inspect", index(directory, "up/secret.safetensors"), codes=(4,))
    (directory / "loop").symlink_to("loop")
    ask("inspect", index(directory, "loop"), codes=(3, 4))


def test_members_named_as_paths_stay_in_the_archive(ask, tmp_path):
    torch.save(STATE, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        for name in ("../../secret", "/etc/passwd", "C:\\secret", "x/data/../../secret"):
            archive.writestr(name, b"x")
    before = sorted(tmp_path.parent.iterdir())
    ask("inspect", tmp_path / "x.pt", codes=(0,))
    assert sorted(tmp_path.parent.iterdir()) == before


ODD = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "[red]markup[/red]",
    "[/]",
    "[link=http://x]y",
    "a\tb\nc\rd",
    "\u202eabc",
]
ODD += [
    "\x9b31m",
    "=cmd|'/C calc'!A0",
    "x" * 5000,
    "\u200b",
    "%s%n{0}",
    "\\",
    "'\"`",
    ":warning:",
    "\u0000",
    "<script>",
]


@pytest.mark.parametrize("form", ["rich", "tsv", "csv", "json", "jsonl", "md", "github", "junit", "prom"])
def test_names_do_not_act(ask, tmp_path, form):
    tensors = {name: torch.full((2, 2), float("nan")) for name in ODD}
    save_file(tensors, tmp_path / "x.safetensors", {"step": "\x1b[31m", "\x1b": "\x1b"})
    torch.save({"state_dict": tensors, "\x1b[31m": tensors, "\x1b]x": "\x1b"}, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        done = ask("inspect", tmp_path / name, "--format", form, "--all", codes=(0,))
        assert form != "rich" or "markup[/red]" in "".join(done.out.split())
        if form == "tsv":
            assert {line.count("\t") for line in done.out.splitlines()} == {done.out.splitlines()[0].count("\t")}
    ask("inspect", tmp_path / "x.pt", "--key", "\x1b[31mx", "--format", form, codes=(2,))


def test_names_in_errors_do_not_act(ask, tmp_path, directory):
    ask("inspect", index(directory, "\x1b[31mmissing"))
    (directory / INDEX).write_text(json.dumps({"weight_map": {"\x1b[31m": "x.safetensors"}}))
    save_file(STATE, directory / "x.safetensors")
    ask("inspect", directory)
    with zipfile.ZipFile(tmp_path / "\x1b[31m.pt", "w") as archive:
        archive.writestr("\x1b[31m/data.pkl", b"\x80\x02\xff")
    ask("inspect", tmp_path / "\x1b[31m.pt")
    ask("inspect", "--safety", tmp_path / "\x1b[31m.pt", "--format", "rich", codes=(0,))


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.npz", INDEX, "config.json"])
def test_empty_files_and_directories_where_files_belong(ask, tmp_path, directory, name):
    (directory / name).touch()
    ask("inspect", directory / name)
    ask("inspect", directory)
    (tmp_path / name).mkdir()
    ask("inspect", tmp_path / name)
    (directory / name).unlink()
    (directory / name).mkdir()
    ask("inspect", directory)


def test_things_that_are_no_files(ask, tmp_path, directory):
    os.mkfifo(tmp_path / "pipe.pt")
    os.mkfifo(directory / "model.safetensors")
    for path in (tmp_path / "pipe.pt", directory, "/dev/zero", "/dev/null", "/dev/full"):
        ask("inspect", path)
        ask("inspect", "--safety", path, codes=(0, 3))
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("/dev/zero")
    ask("inspect", directory)


def test_texts_beside_weights_that_are_no_texts(ask, directory):
    save_file(STATE, directory / "model.safetensors")
    for name in ("config.json", "trainer_state.json", "fromage.toml"):
        for content in (b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"null", b'{"global_step": 1e999}'):
            (directory / name).write_bytes(content)
            ask("inspect", directory, codes=(0, 2, 3))
        (directory / name).unlink()
        os.mkfifo(directory / name)
        ask("inspect", directory, codes=(0, 2, 3))
        (directory / name).unlink()


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "legacy.pt", "x.npz"])
def test_files_that_shrink_while_they_are_read(ask, tmp_path, monkeypatch, name):
    from fromage_cli.checkpoints.storage import files

    path = tmp_path / name
    write(path)
    whole, opened = path.read_bytes(), files.FileVersion.check_unchanged

    def shrinking(version):
        opened(version)
        os.truncate(path, len(whole) // 3)

    monkeypatch.setattr(files.FileVersion, "check_unchanged", shrinking)
    ask("inspect", path)


def write(path):
    import numpy

    tensors = {"w": torch.ones(300, 300)}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        numpy.savez(path, w=tensors["w"].numpy())
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=path.stem != "legacy")
