"""What a file can be beside a pickle: formats of numbers or plain text alone, and all others, which are named."""

import codecs
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fromage_cli.checkpoints.formats.content import MSGPACK
from fromage_cli.checkpoints.formats.flax_file import read_flax
from fromage_cli.checkpoints.formats.foreign import foreign_format
from fromage_cli.checkpoints.formats.npy_header import NPY_MAGIC
from fromage_cli.checkpoints.formats.safetensors_file import read_header
from fromage_cli.checkpoints.storage.files import opened
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.errors import FromageError

PIECE, OVERLAP = 1 << 20, 200
"""Bytes of a text that are looked at together, and how many characters of them once more with the next."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_NAMES_CODE = re.compile(
    r"!!python|tag:yaml\.org,2002:python|%TAG|\"class_name\"\s*:\s*\"Lambda\"|__lambda__|\"py/|\"__loader__\"|\b_target_\b"
)
"""What names Python objects in YAML, in Keras's layers, in jsonpickle's texts, in those of skops and of Hydra."""
_KERAS = (re.compile('"class_name"'), re.compile(r'"module"\s*:\s*"(?!(tf_)?keras[".]|builtins")'))
"""What together has Keras import a module that is not its own."""
_ESCAPED = re.compile(r"(?:\\u00|%)([2-7][0-9a-fA-F])|\\(/)")
"""How JSON and YAML can write plain letters otherwise."""
_SPACES = re.compile(r"\s{2,}")
_YAML_TAG = re.compile(r"(^|[\s\[{,:-])![^\s]")
DATA = re.compile(r".*\.(png|jpe?g|gif|webp)|.*\.tfevents\..*|(tokenizer|spiece|sentencepiece.*)\.model", re.IGNORECASE)
"""Names of files whose usual readers know no code: pictures, logs for TensorBoard, vocabularies."""


def holds_numbers(source: Source, head: bytes) -> bool:
    """Return whether a file holds nothing but tensors, in a valid format from its first byte to its last."""
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
    try:
        told = _names_code_to_run(source)
    except ValueError:
        return "its format is not known here, so it was not looked into"
    return "what its text tells some loaders to run was not looked into" if told else ""


def _ends_as_archive(path: Path) -> bool:
    with opened(path) as file:
        try:
            return zipfile.is_zipfile(file)
        except zipfile.BadZipFile:  # it has the mark, and contradicts itself
            return True


def _names_code_to_run(source: Source) -> bool:
    """Tell whether a text names Python objects as some loader takes them; ValueError where it is no plain text."""
    tags = (_YAML_TAG,) if source.path.suffix.lower() in (".yaml", ".yml") else ()
    patterns = (_NAMES_CODE, *tags, *_KERAS)
    found: set[re.Pattern[str]] = set()
    for piece in _pieces(source):
        found.update(pattern for pattern in patterns if pattern.search(piece))
    return bool(found - {*_KERAS}) or found.issuperset(_KERAS)


def _pieces(source: Source) -> Iterator[str]:
    """Yield a text in pieces that overlap, letters unescaped; raises ValueError where it is no plain text in UTF-8."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), ""
    with source.open() as file:
        while stored := file.read(PIECE):
            text = decoder.decode(stored)
            if _CONTROL.search(text):
                raise ValueError("a control character")
            plain = _ESCAPED.sub(lambda escape: escape[2] or chr(int(escape[1], 16)), before + text)
            yield plain
            before = _SPACES.sub(" ", plain)[-OVERLAP:]
    decoder.decode(b"", final=True)
