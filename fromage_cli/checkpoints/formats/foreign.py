"""Files and directories of other libraries, which are not read: what they are, and what to do about them."""

import zlib
from collections.abc import Collection
from pathlib import Path

from fromage_cli.checkpoints.formats.npy_header import NPY_MAGIC

ORBAX = "Restore it with orbax.checkpoint, then save its arrays with numpy.savez or flax.serialization.to_bytes."
MADE_FROM = "Use the checkpoint that it was made from."
SAVE_ARRAYS = "Save the weights as .npz or .safetensors."
EXPORTED = "It is an exported graph. Use the checkpoint that it was made from."
TENSORFLOW = "Save its variables with numpy.savez (tf.train.load_checkpoint reads them)."
FOREIGN = (  # first bytes, what it is, what to do
    (b"\x1f\x8b", "a gzip archive", "Unpack it first (gunzip)."),
    (b"BZh", "a bzip2 archive", "Unpack it first (bunzip2)."),
    (b"\xfd7zXZ", "an xz archive", "Unpack it first (unxz)."),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", "Unpack it first (unzstd)."),
    (b"\x5d\x00\x00", "an lzma stream", "Unpack it first (unlzma)."),
    (b"\x04\x22\x4d\x18", "an LZ4 stream", "Unpack it first (unlz4)."),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it first."),
    (b"\x89HDF", "an HDF5 file (Keras)", SAVE_ARRAYS),
    (b"GGUF", "a GGUF file", "Its weights are quantised. Use the checkpoint that it was made from."),
    *((magic, "a GGML file", MADE_FROM) for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")),
    ((20240326).to_bytes(4, "little"), "a model of llm.c", MADE_FROM),
    ((20240527).to_bytes(4, "little"), "an optimizer state of llm.c", MADE_FROM),
    ((0x616B3432).to_bytes(4, "little"), "a model of llama2.c", MADE_FROM),
    ((0x112).to_bytes(8, "little"), "a parameter file of MXNet", "Save its arrays with numpy.savez (mx.nd.load)."),
    ((793712314).to_bytes(4, "little"), "a fastText model", SAVE_ARRAYS),
    (b"MATLAB 5.0", "a MATLAB file", "Save its arrays with numpy.savez (scipy.io.loadmat)."),
    (b"PAR1", "a Parquet file", SAVE_ARRAYS),
    (b"SQLite format 3", "an SQLite database", SAVE_ARRAYS),
    (NPY_MAGIC, "a single NumPy array", "Save named arrays with numpy.savez."),
)
FOREIGN_AT_4 = (  # likewise, from the fifth byte on
    (b"TFL3", "a TensorFlow Lite model", EXPORTED),
    (b"PTMF", "a PyTorch Mobile model", EXPORTED),
    (b"ET12", "an ExecuTorch program", EXPORTED),
)
FOREIGN_NAMES = (  # how names end, where the first bytes have no mark
    ((".onnx",), "an ONNX model", EXPORTED),
    ((".pb", ".pbtxt"), "a TensorFlow graph", TENSORFLOW),
    ((".index", ".data-00000-of-00001", ".meta"), "a part of a TensorFlow checkpoint", TENSORFLOW),
    ((".keras", ".h5", ".hdf5"), "a Keras model", "Save the weights as .npz: numpy.savez(FILE, *model.get_weights())."),
    ((".pdiparams", ".pdmodel", ".pdparams"), "a PaddlePaddle file", "Save its arrays with numpy.savez (paddle.load)."),
    ((".nemo",), "a NeMo archive", "Unpack it (tar -xf), then name model_weights.ckpt in it."),
    ((".mlmodel", ".mlpackage"), "a Core ML model", EXPORTED),
    ((".engine", ".plan"), "a TensorRT engine", EXPORTED),
    ((".caffemodel",), "a Caffe model", SAVE_ARRAYS),
    ((".tflite",), "a TensorFlow Lite model", EXPORTED),
    ((".params",), "a parameter file of MXNet", "Save its arrays with numpy.savez (mx.nd.load)."),
)
FOREIGN_DIRECTORIES = (  # what lies in them, what they are, what to do
    ("_CHECKPOINT_METADATA", "is an Orbax checkpoint", ORBAX),
    ("_METADATA", "is an Orbax checkpoint", ORBAX),
    ("manifest.ocdbt", "is an Orbax checkpoint", ORBAX),
    ("saved_model.pb", "is a TensorFlow SavedModel", TENSORFLOW),
    ("variables.index", "is a TensorFlow checkpoint", TENSORFLOW),
    ("checkpoint", "is a TensorFlow checkpoint", TENSORFLOW),
    (".zgroup", "is a Zarr store", SAVE_ARRAYS),
)


def foreign_format(head: bytes) -> tuple[str, str] | None:
    """Return which other format the first bytes of a file belong to, and what to do about it."""
    if _is_tar(head):
        return "a tar archive (NeMo's .nemo is one)", "Unpack it first (tar -xf), then name the weights in it."
    if head[:1] == b"x" and _is_zlib(head):
        return "a zlib stream (joblib's compression)", "Unpack it first."
    placed = [(0, *known) for known in FOREIGN] + [(4, *known) for known in FOREIGN_AT_4]
    return next(((found, hint) for place, magic, found, hint in placed if head.startswith(magic, place)), None)


def _is_tar(head: bytes) -> bool:
    """Tell whether the first block has a checksum as tar archives have; old ones have no other mark."""
    import tarfile

    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _is_zlib(head: bytes) -> bool:
    try:
        zlib.decompressobj().decompress(head, 1)
    except zlib.error:
        return False
    return True


def foreign_name(path: Path) -> tuple[str, str] | None:
    """Return which other format a file has by its name, and what to do about it."""
    return next(((found, hint) for ends, found, hint in FOREIGN_NAMES if path.name.endswith(ends)), None)


def foreign_directory(names: Collection[str]) -> tuple[str, str] | None:
    """Return what a directory of another library is by what lies in it, and what to do about it."""
    whole = next(((found, hint) for member, found, hint in FOREIGN_DIRECTORIES if member in names), None)
    members = ((name, foreign_name(Path(name))) for name in names)
    part = next(((f"holds {foreign[0]} ({name!r})", foreign[1]) for name, foreign in members if foreign), None)
    return whole or part
