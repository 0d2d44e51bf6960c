"""What a file is by its first bytes, whatever its name says."""

import re
from pathlib import Path

from fromage_cli.checkpoints.formats.foreign import foreign_format, foreign_name
from fromage_cli.checkpoints.formats.npy_header import NPY_MAGIC, pickle_in_array
from fromage_cli.checkpoints.formats.zip_directory import read_directory
from fromage_cli.checkpoints.names.library_files import HEADER_LIMIT
from fromage_cli.checkpoints.storage.files import HEAD, FileVersion, opened, quoted
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.errors import InputError, UnsafeError

SUPPORTED = (
    "Give .safetensors, a PyTorch file (.pt, .pth, .bin, .ckpt), .npz or .msgpack, single or sharded with an index. "
    "Or give a directory of torch.distributed.checkpoint or DeepSpeed."
)
PICKLE_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
OLD_PICKLE = re.compile(rb"c[\w.]+\n[\w.]+\n[(q)p0-9]|\([dl]p?[0-9]+\n|\(i[\w.]+\n[\w.]+\n|[}\]]q\x00")
"""How an object, a dictionary or a list begins in protocols 0 and 1, which have no mark."""

GRAPHS = ("/models/model.json", "/serialized_exported_program.json", "/archive_format")
"""How the members of an archive end in which torch.export keeps a graph."""
MSGPACK = re.compile(rb"([\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9\xda]", re.DOTALL)
"""The beginning of a dictionary whose first key is a text."""
PICKLED_FORMATS = ("torch", "torch-legacy", "torchscript", "torch-package")
"""Kinds of files whose pickles say what they hold."""


def kind_of(path: Path) -> str:
    """Return what a file is; anything that is no checkpoint raises InputError, code raises UnsafeError.

    "safetensors", "torch", "torch-legacy", "torchscript", "torch-package", "npz", "msgpack", or "json".
    """
    version = FileVersion.of(path)
    if path.suffix == ".distcp":
        raise InputError(
            f"{quoted(path)} is one shard of a torch.distributed.checkpoint.",
            hint=f"Name its directory: {quoted(path.parent)}.",
        )
    source = Source(path, version.size, version)
    with opened(path) as file:
        head = file.read(HEAD)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_LIMIT:
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_archive(source)
    if (head.startswith(PICKLE_PROTOCOLS) and head[2:3] != b"\x00") or OLD_PICKLE.match(head):
        return "torch-legacy"
    if head.startswith(NPY_MAGIC):
        with source.open() as window:
            if pickle_in_array(window) is not None:
                raise UnsafeError(
                    f"{quoted(path)} is an array of pickled Python objects. Nothing was executed.",
                    hint="Save named arrays of plain numbers with numpy.savez.",
                )
    if foreign := _failed_download(head) or foreign_format(head):
        raise InputError(f"{quoted(path)} is {foreign[0]}.", hint=foreign[1])
    if path.suffix == ".safetensors":
        return "safetensors"
    if head.lstrip()[:1] == b"{":
        return "json"
    if MSGPACK.match(head):
        return "msgpack"
    if foreign := foreign_name(path):
        raise InputError(f"{quoted(path)} is {foreign[0]}.", hint=foreign[1])
    raise InputError(f"{quoted(path)} is not a checkpoint in a known format.", hint=SUPPORTED)


def _failed_download(head: bytes) -> tuple[str, str] | None:
    """Return what stands in the place of a file that was not downloaded itself, and what to do about it."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file that it points to", "Fetch the content with `git lfs pull`."
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a checkpoint", "The download went wrong; download it again."
    return None


def _kind_of_archive(source: Source) -> str:
    """Return which kind of checkpoint a ZIP archive is, by the names of its members."""
    names = list(read_directory(source))
    if any(f"/{name}".endswith(GRAPHS) for name in names):
        raise UnsafeError(
            f"{quoted(source.path)} is a .pt2 archive. It holds a graph, which counts as code. Nothing was executed.",
            hint="Save the weights alone: torch.save(exported.state_dict, 'weights.pt').",
        )
    if any(name.endswith("/.data/extern_modules") for name in names):
        return "torch-package"
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if foreign := foreign_name(Path("x.keras") if "model.weights.h5" in names else source.path):
        raise InputError(f"{quoted(source.path)} is {foreign[0]}.", hint=foreign[1])
    raise InputError(
        f"{quoted(source.path)} is a ZIP archive, but neither a PyTorch file nor an .npz file.", hint=SUPPORTED
    )
