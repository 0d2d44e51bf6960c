import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, WholeTensor
from fromage_cli.errors import MismatchError
from fromage_cli.intake import open_problem
from fromage_cli.problem.networks.hugging_face_weights import as_transformers_reads
from fromage_cli.problem.networks.layers import trainable_tensors
from fromage_cli.problem.networks.weights import load_weights, stored_names, weight_reader
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SIZES, "vocab_size": 40}
FAMILIES = {
    "Mixtral": {**TEXT, "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2},
    "Qwen3Moe": {
        **TEXT,
        "num_key_value_heads": 2,
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "moe_intermediate_size": 16,
    },
    "GPTNeoX": {**TEXT, "max_position_embeddings": 16},
    "ViT": {**SIZES, "image_size": 8, "patch_size": 4, "num_labels": 3},
}


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def tiny(transformers, family, settings, head="ForCausalLM"):
    """A model of a family with random weights, all of them: a bias of zeros would hide its absence."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    config._experts_implementation = "eager"
    model = getattr(transformers, family + head)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch_of(model, path):
    torch.manual_seed(1)
    tokens = torch.randint(40, (3, 6))
    values = {"input_ids": tokens, "labels": tokens.clone()}
    if model.main_input_name == "pixel_values":
        values = {"pixel_values": torch.randn(3, 3, 8, 8), "labels": torch.tensor([0, 2, 1])}
    save_file(values, path)
    return values


def asked(directory, batch):
    options = BatchOptions(batch=str(batch), mode="eval")
    return open_problem(str(directory), ModelOptions(model="hf"), options, RunOptions(dtype="float64"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_library(tmp_path, transformers, family):
    model = tiny(transformers, family, FAMILIES[family], "ForImageClassification" if family == "ViT" else "ForCausalLM")
    model.save_pretrained(tmp_path / "saved")
    batch = batch_of(model, tmp_path / "batch.safetensors")
    double = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    expected = model.double()(**double).loss.item()
    found = asked(tmp_path / "saved", tmp_path / "batch.safetensors")
    assert found.problem.base.loss == pytest.approx(expected, rel=1e-7)


def hub_layout(transformers, directory, rename):
    """A file of the BERT family as hubs hold it: without tied heads, with a pooler that the masked model has not."""
    settings = {**TEXT, "max_position_embeddings": 16}
    model = tiny(transformers, "Bert", settings, "ForPreTraining")
    directory.mkdir()
    state = {rename(name): value.clone() for name, value in model.state_dict().items() if "decoder" not in name}
    save_file(state, directory / "model.safetensors")
    config = {**model.config.to_dict(), "architectures": ["BertForMaskedLM"]}
    (directory / "config.json").write_text(json.dumps(config, default=str))
    masked = transformers.BertForMaskedLM(model.config).eval()
    masked.load_state_dict(model.state_dict(), strict=False)
    return masked


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        lambda name: name.removeprefix("bert."),
    ],
    ids=["unused pooler", "older names", "no prefix"],
)
def test_layouts_of_hubs(tmp_path, transformers, rename):
    model = hub_layout(transformers, tmp_path / "saved", rename)
    batch = batch_of(model, tmp_path / "batch.safetensors")
    found = asked(tmp_path / "saved", tmp_path / "batch.safetensors")
    assert found.problem.base.loss == pytest.approx(model.double()(**batch).loss.item(), rel=1e-7)
    assert any("Left out 4 tensors that BertForMaskedLM does not have" in note for note in found.notes)


@pytest.mark.parametrize("same", [True, False])
def test_ties_that_the_checkpoint_does_not_have(tmp_path, transformers, same):
    settings = {**TEXT, "num_key_value_heads": 2, "tie_word_embeddings": True}
    model = tiny(transformers, "Llama", settings)
    model.save_pretrained(tmp_path / "saved")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["lm_head.weight"] += 0.0 if same else 0.1 * torch.randn(40, 16)
    torch.save(state, tmp_path / "saved" / "pytorch_model.bin")
    (tmp_path / "saved" / "model.safetensors").unlink()
    batch = batch_of(model, tmp_path / "batch.safetensors")
    found = asked(tmp_path / "saved", tmp_path / "batch.safetensors").problem
    if not same:
        model.lm_head.weight = torch.nn.Parameter(state["lm_head.weight"])
    assert found.base.loss == pytest.approx(model.double()(**batch).loss.item(), rel=1e-7)
    assert ("lm_head.weight" in [tensor.name for tensor in found.trainable]) is not same


def test_what_the_library_computes_may_be_missing(tmp_path, transformers):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 1, "pad_token_id": 0}
    model = tiny(transformers, "Marian", {**sizes, **heads, "vocab_size": 40}, "MTModel")
    model.save_pretrained(tmp_path / "saved")
    batch = batch_of(model, tmp_path / "batch.safetensors")
    truth = transformers.MarianMTModel.from_pretrained(tmp_path / "saved").double()(**batch).loss.item()
    assert asked(tmp_path / "saved", tmp_path / "batch.safetensors").problem.base.loss == pytest.approx(truth, rel=1e-7)


def test_what_the_model_needs_is_not_made_up(tmp_path, transformers):
    hub_layout(transformers, tmp_path / "saved", lambda name: name)
    state = load_file(tmp_path / "saved" / "model.safetensors")
    del state["bert.encoder.layer.1.output.dense.weight"]
    save_file(state, tmp_path / "saved" / "model.safetensors")
    model = transformers.BertForMaskedLM(transformers.BertConfig(**TEXT, max_position_embeddings=16))
    with pytest.raises(MismatchError, match=r"1 missing(.|\n)*layer\.1\.output\.dense\.weight"):
        load_weights(model, open_checkpoint(tmp_path / "saved"))


def test_names_of_the_checkpoint_and_tensors_that_are_read_again(tmp_path, transformers):
    model = tiny(transformers, "Mixtral", FAMILIES["Mixtral"])
    model.save_pretrained(tmp_path)
    checkpoint, tensors = open_checkpoint(tmp_path), trainable_tensors(model)
    names = stored_names(model, checkpoint, tensors)
    assert names["model.layers.1.mlp.gate.weight"] == "model.layers.1.block_sparse_moe.gate.weight"
    merged = "model.layers.1.mlp.experts.gate_up_proj"
    assert names[merged] == merged and merged not in checkpoint.entries
    read = weight_reader(model, checkpoint)
    assert all(torch.equal(read(tensor), tensor.parameter) for tensor in tensors)
    translated = as_transformers_reads(model, checkpoint)
    for tensor in tensors:
        rows = translated.rows(tensor.name, 1, 3)
        assert torch.equal(rows, tensor.parameter[1:3])
        assert rows.untyped_storage().nbytes() == 4 * rows.numel()
    assert type(translated.unread(merged)) is WholeTensor
    assert type(translated.unread("model.layers.1.mlp.gate.weight")) is StoredTensor


def test_experts_that_are_merged_are_left_out_for_that_reason(tmp_path, transformers):
    tiny(transformers, "Mixtral", FAMILIES["Mixtral"]).save_pretrained(tmp_path)
    torch.save({"input_ids": torch.arange(8).reshape(1, 8), "labels": torch.arange(8).reshape(1, 8)}, tmp_path / "b.pt")
    batch = BatchOptions(batch=str(tmp_path / "b.pt"))
    intake = open_problem(str(tmp_path), ModelOptions(model="hf"), batch, RunOptions())
    assert intake.checkpoint is not None
    names = [name for name, entry in intake.checkpoint.entries.items() if len(entry.shape) > 1]
    found, (note,) = intake.trained_layers(names)
    experts = [name for name in names if ".experts." in name]
    assert len(found) == len(names) - len(experts) and not set(experts) & set(found)
    start = f"Left out {len(experts)} layers that transformers merges or splits into other tensors: {experts[0]}"
    assert note.startswith(start)


def test_experts_that_are_missing_or_differ_are_refused(tmp_path, transformers):
    model = tiny(transformers, "Mixtral", FAMILIES["Mixtral"])
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    fewer = {name: entry for name, entry in checkpoint.entries.items() if "layers.0" not in name or ".w1" not in name}
    with pytest.raises(MismatchError, match="transformers translates"):
        load_weights(model, replace(checkpoint, entries=fewer))
    fewer = {name: entry for name, entry in checkpoint.entries.items() if "experts.2" not in name}
    with pytest.raises(MismatchError, match="shapes differ"):
        load_weights(model, replace(checkpoint, entries=fewer))


@pytest.mark.parametrize("name", ["experts." * 100_000 + "w", "a.²", "a." + "9" * 5000], ids=["long", "sign", "digits"])
def test_names_that_no_model_has(tmp_path, transformers, name):
    model = tiny(transformers, "Mixtral", FAMILIES["Mixtral"])
    save_file({name: torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(MismatchError):
        load_weights(model, open_checkpoint(tmp_path))
