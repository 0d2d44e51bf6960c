"""What a file can be beside a pickle: formats of numbers or plain text alone, and all others, which are named."""

import re
import zipfile
from pathlib import Path

from fromage_cli.checkpoints.formats.content import MSGPACK
from fromage_cli.checkpoints.formats.flax_file import read_flax
from fromage_cli.checkpoints.formats.foreign import foreign_format
from fromage_cli.checkpoints.formats.npy_header import NPY_MAGIC
from fromage_cli.checkpoints.formats.safetensors_file import read_header
from fromage_cli.checkpoints.storage.files import opened
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.errors import FromageError

TEXT_BYTES = 1 << 20
"""How much of a file has to be text for it to count as one."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_NAMES_CODE = re.compile(
    r"!!python|tag:yaml\.org,2002:python|\"class_name\"\s*:\s*\"Lambda\"|__lambda__|\"py/|\"__loader__\""
)
"""What names Python objects in YAML, in Keras's layers, in jsonpickle's texts and in those of skops."""
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-fA-F])")
"""How JSON can write plain letters otherwise."""
_YAML_TAG = re.compile(r"(^|[\s\[{,:-])![^\s]")
DATA = re.compile(r".*\.(png|jpe?g|gif|webp)|.*\.tfevents\..*|(tokenizer|spiece|sentencepiece.*)\.model", re.IGNORECASE)
"""Names of files whose usual readers know no code: pictures, logs for TensorBoard, vocabularies."""


def holds_numbers(source: Source, head: bytes) -> bool:
    """Tell whether a whole file is tensors in a format that has nothing else, valid from its first byte to its last."""
    if source.version is None or source.begin:
        return False
    try:
        if head[8:9] == b"{":
            read_header(source.path)
            return True
        if MSGPACK.match(head):
            read_flax(source.path)
            return True
    except FromageError:
        pass
    return False


def unjudged(source: Source, head: bytes, known: bool) -> str:
    """Return what is not looked into, in words that end with that; empty where nothing is left.

    `known`: whether the bytes are judged already as what they begin with. They may be something else beside.
    """
    if (found := foreign_format(head)) and not (known and head.startswith(NPY_MAGIC)):
        return f"{found[0]} was not looked into"
    if source.version is not None and source.begin == 0 and _ends_as_archive(source.path):
        return "the ZIP archive at its end was not looked into"
    if known or source.size == 0 or DATA.fullmatch(source.path.name):
        return ""
    text = _text(source)
    if text is None:
        return "it is in no format that is known here, and was not looked into"
    tagged = source.path.suffix in (".yaml", ".yml") and _YAML_TAG.search(text)
    if tagged or _NAMES_CODE.search(_ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)):
        return "what its text tells some loaders to run was not looked into"
    return ""


def _ends_as_archive(path: Path) -> bool:
    with opened(path) as file:
        try:
            return zipfile.is_zipfile(file)
        except zipfile.BadZipFile:  # it has the mark, and contradicts itself
            return True


def _text(source: Source) -> str | None:
    """Return the beginning of what is plain text in UTF-8; None for anything else."""
    with source.open() as file:
        stored = file.read(TEXT_BYTES)
    try:
        text = stored.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < TEXT_BYTES - 4 or len(stored) < TEXT_BYTES:  # the last character may be cut
            return None
        text = stored[: error.start].decode("utf-8")
    return None if _CONTROL.search(text) else text
