"""What a text may name, told by its form alone: a file of data, or code; nothing is read or imported."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

DATA_FILES = (".safetensors", ".npz", ".pt", ".pth", ".bin")
"""Endings of the files that a batch is read from."""
BUILT_IN_LOSSES = ("auto", "cross-entropy", "mse", "bce", "output")
"""Losses that are named by a word."""
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Specification:
    """A module, or a file that is loaded as one, and the dotted name inside it."""

    text: str
    module: str
    """`pkg.module`, or the path of the file as the user wrote it."""
    name: str

    @property
    def is_file(self) -> bool:
        """Whether the code stands in a file that is named by its path."""
        return self.module.endswith(".py")

    @property
    def path(self) -> Path:
        """The path of that file; `~` is the home directory, where there is one."""
        return Path(os.path.expanduser(self.module))  # noqa: PTH111 - the method raises where there is none


def parse_specification(text: str) -> Specification | None:
    """Take `pkg.module:name` or `path/file.py:name` apart; None when the text has neither form."""
    module, colon, name = text.rpartition(":")
    if not colon or not _DOTTED.fullmatch(name):
        return None
    if module.endswith(".py") or _DOTTED.fullmatch(module):
        return Specification(text, module, name)
    return None
