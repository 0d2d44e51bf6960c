import tarfile
import zipfile

import numpy
import pytest

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import InputError

PROTOBUF = b"\x08\x07\x12\x07pytorch\x1a\x032.1"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.bin", b"GGUF\x03\x00", "GGUF"),
        ("x.bin", b"tjgg\x03\x00\x00\x00", "GGML"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", "Keras"),
        ("gpt2.bin", numpy.array([20240326, 3, 1024], "i4").tobytes(), "llm.c"),
        ("state.bin", numpy.array([20240527, 1], "i4").tobytes(), "optimizer state of llm.c"),
        ("x-0001.params", (0x112).to_bytes(8, "little") + bytes(16), "MXNet"),
        ("x.bin", b"\x1c\x00\x00\x00TFL3" + bytes(20), "TensorFlow Lite"),
        ("x.onnx", PROTOBUF, "ONNX"),
        ("saved_model.pb", PROTOBUF, "TensorFlow"),
        ("x.ckpt.data-00000-of-00001", bytes(range(1, 100)), "TensorFlow checkpoint"),
        ("x.ckpt.index", bytes(range(1, 100)), "TensorFlow checkpoint"),
        ("x.pdiparams", bytes(range(1, 100)), "PaddlePaddle"),
    ],
)
def test_a_file_of_another_library_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        open_checkpoint(tmp_path / name)
    assert caught.value.hint


def test_archives_of_other_libraries_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, b"{}")
    with pytest.raises(InputError, match="Keras"):
        open_checkpoint(tmp_path / "x.keras")
    (tmp_path / "model_weights.ckpt").write_bytes(bytes(600))
    with tarfile.open(tmp_path / "x.nemo", "w") as archive:
        archive.add(tmp_path / "model_weights.ckpt", arcname="model_weights.ckpt")
    with pytest.raises(InputError, match="NeMo") as caught:
        open_checkpoint(tmp_path / "x.nemo")
    assert "tar -xf" in caught.value.hint


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("_CHECKPOINT_METADATA", "Orbax"),
        ("manifest.ocdbt", "Orbax"),
        ("saved_model.pb", "SavedModel"),
        ("checkpoint", "TensorFlow"),
        ("model.onnx", "holds an ONNX model"),
    ],
)
def test_a_directory_of_another_library_is_named(tmp_path, member, words):
    (tmp_path / member).write_text("{}")
    with pytest.raises(InputError, match=words) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint
