import json
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.finding.library_layouts import library_layout
from fromage_cli.errors import InputError

DIFFUSERS = {"_class_name": "UNet2DModel", "_diffusers_version": "0.30"}


def laid(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("files", "what", "hint"),
    [
        (
            {"adapter_config.json": {"base_model_name_or_path": "big/one"}, "config.json": {"model_type": "bert"}},
            "an adapter that PEFT trained for 'big/one'",
            "merge_and_unload",
        ),
        (
            {"model_index.json": {"_class_name": "Flow"}, "vae/config.json": {}, "unet/config.json": {}},
            "a pipeline of diffusers ('Flow')",
            "Name one of them: 'unet', 'vae'.",
        ),
        ({"config.json": DIFFUSERS}, "a network of diffusers ('UNet2DModel')", "from_config() of that class"),
        (
            {"config.json": {"architecture": "resnet50", "num_classes": 10}},
            "a network of timm ('resnet50')",
            "--model timm:create_model --model-arg model_name=resnet50 --model-arg num_classes=10.",
        ),
        (
            {"config.json": {"architecture": "a; rm -rf ~"}},
            "a network of timm",
            "--model timm:create_model --model-arg model_name='a; rm -rf ~'.",
        ),
        ({"modules.json": [], "0_Transformer/config.json": {}}, "of sentence-transformers", "'0_Transformer'"),
        ({"open_clip_config.json": {}}, "open_clip", "open_clip.create_model()"),
        ({"llama.gguf": {}}, "GGUF", "Use the checkpoint that it was made from."),
    ],
    ids=["peft", "diffusers", "one of diffusers", "timm", "quoted", "sentences", "open_clip", "gguf"],
)
def test_what_wrote_a_directory_and_what_to_do(tmp_path: Path, files: dict[str, Any], what: str, hint: str) -> None:
    found = library_layout(laid(tmp_path, files))
    assert found is not None
    assert what in found.what and hint in found.hint


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": {"hidden": 3}},
        {"config.json": {"model_type": "bert"}, "modules.json": []},
        {"config.json": {"architectures": ["BertModel"], "architecture": "other"}},
    ],
)
def test_of_others_nothing_is_said(tmp_path: Path, files: dict[str, Any]) -> None:
    assert library_layout(laid(tmp_path, files)) is None


def test_a_directory_without_weights_says_whose_it_is(tmp_path: Path) -> None:
    laid(tmp_path, {"model_index.json": {"_class_name": "Flow"}, "unet/config.json": {}})
    with pytest.raises(InputError, match="holds no weights; it is a pipeline of diffusers") as caught:
        open_checkpoint(tmp_path)
    assert "'unet'" in caught.value.hint
