import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.storage.files import matching
from fromage_cli.errors import InputError


def message(path):
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    return caught.value


def test_a_missing_path_names_the_nearest(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    error = message(tmp_path / "modle.safetensors")
    assert "modle.safetensors' does not exist" in error.message
    assert "'model.safetensors'" in error.hint
    assert error.details == ("model.safetensors",)
    (tmp_path / "checkpoints").mkdir()
    assert "'checkpoints'" in message(tmp_path / "checkpoint" / "deep" / "x.pt").hint


def test_missing_in_an_empty_or_current_directory(tmp_path, monkeypatch):
    assert "nothing in directory" in message(tmp_path / "x.pt").hint
    monkeypatch.chdir(tmp_path)
    assert "nothing in the current directory" in message("x.pt").hint


def test_a_file_in_the_middle_of_a_path(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    assert "is a file, not a directory" in message(tmp_path / "file" / "x.pt").message


def test_a_broken_link(tmp_path):
    (tmp_path / "x.pt").symlink_to(tmp_path / "gone")
    assert "symbolic link whose target does not exist" in message(tmp_path / "x.pt").message


def test_an_empty_file(tmp_path):
    (tmp_path / "x.pt").touch()
    assert "empty (0 bytes)" in message(tmp_path / "x.pt").message


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    assert "a pipe (FIFO)" in message(tmp_path / "x.pt").message


def test_a_device_and_a_socket(tmp_path, monkeypatch):
    assert "a character device" in message("/dev/zero").message
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.pt")
        assert "a socket" in message("s.pt").message


def test_permission_denied(tmp_path, monkeypatch):
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors")

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "permission denied" in message(tmp_path / "x.safetensors").message
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "permission denied" in message(tmp_path).message


def test_impossible_names(tmp_path):
    assert "null character" in message("a\0b").message
    assert "cannot be read" in message(tmp_path / ("x" * 5000)).message
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in message(tmp_path / "loop").message


def test_control_characters_are_escaped_in_messages(tmp_path):
    text = message(tmp_path / "a\x1b[31m\nb.pt").message
    assert "\x1b" not in text
    assert "\n" not in text


def test_a_pattern_that_is_too_long_for_a_name_has_no_match():
    assert matching("a" * 3000) == [] and matching("a" * 3000 + "*") == []
