import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import InputError, MismatchError, UnsafeError, UsageError
from fromage_cli.intake import open_problem
from fromage_cli.problem.networks.hugging_face_models import _without_loading
from fromage_cli.problem.networks.models import build_model
from fromage_cli.problem.user_code.declared import Declared
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions

SIZES = {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "max_position_embeddings": 16, **SIZES}
GPT = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_layer": 1, "n_head": 2}
GPT |= {"vocab_size": 19, "n_positions": 16, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def checkpoint(directory, config, state=None):
    """A checkpoint with a configuration beside it; the weights matter only where a test loads them."""
    directory.mkdir(exist_ok=True)
    save_file(state or {"w": torch.ones(2)}, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return open_checkpoint(directory)


def built(directory, config, **arguments):
    return build_model("hf", arguments, checkpoint(directory, config), Declared())


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (None, InputError, r"needs config\.json"),
        ({**BERT, "auto_map": {"AutoModel": "modeling.Evil"}}, UnsafeError, "Nothing was executed"),
        ({**BERT, "quantization_config": {"quant_method": "gptq"}}, InputError, "quantised"),
        (
            {**BERT, "num_hidden_layers": 10**8},
            MismatchError,
            "num_hidden_layers = 100000000, but the checkpoint has too few",
        ),
        ({**BERT, "vision_config": {"depths": [2, 10**8]}}, MismatchError, "depths = 100000000"),
        ({**BERT, "num_labels": 10**9}, MismatchError, "num_labels = 1000000000"),
    ],
)
def test_refused_before_anything_is_imported(tmp_path, monkeypatch, config, error, words):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(error, match=words):
        built(tmp_path, config)


def test_a_missing_library_or_checkpoint_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"config\.json describes .* needs the package transformers") as caught:
        built(tmp_path, BERT)
    assert "--model hf" not in caught.value.message  # nobody may have typed it
    assert "fromage-diag[hf]" in caught.value.hint and "--model file.py:factory" in caught.value.hint
    with pytest.raises(UsageError, match="no checkpoint was given"):
        build_model("hf", {}, None, Declared())


def test_arguments_for_other_libraries_name_no_files():
    given = {"checkpoint_path": "evil.pth", "pretrained_cfg": {"file": "evil.pth"}, "drop_rate": 0.1}
    values = {"model_type": "timm_wrapper", "model_args": given, "parts": [{"backbone_kwargs": given}]}
    assert _without_loading(values) == {
        "model_type": "timm_wrapper",
        "model_args": {"drop_rate": 0.1},
        "parts": [{"backbone_kwargs": {"drop_rate": 0.1}}],
    }


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def test_the_class_of_the_configuration_with_the_users_changes(tmp_path, transformers):
    model, description = built(tmp_path, BERT, intermediate_size=20, hidden_dropout_prob=0.0)
    assert type(model) is transformers.BertForMaskedLM
    assert model.config.intermediate_size == 20
    assert model.config._attn_implementation == "eager"
    assert not model.config.use_cache
    assert description.startswith("BertForMaskedLM of transformers")
    again, _ = built(tmp_path, BERT, intermediate_size=20)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    other, _ = built(tmp_path, {**BERT, "auto_map": {"AutoModel": "x.Y"}}, architecture="BertModel")
    assert type(other) is transformers.BertModel


def test_what_names_code_or_downloads_elsewhere_is_dropped(tmp_path, transformers):
    loading = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel", "use_kernels": True}
    model, _ = built(tmp_path, {**BERT, **loading, "trust_remote_code": True, "dtype": "bfloat16"})
    assert model.config._attn_implementation == "eager"
    assert next(model.parameters()).dtype is torch.float32
    assert not getattr(model.config, "trust_remote_code", False)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({**BERT, "architectures": ["pipeline"]}, InputError, "'pipeline', which is not a model"),
        ({**BERT, "architectures": ["os.system"]}, InputError, "which is not a model"),
        ({**BERT, "architectures": None}, InputError, "None, which is not a model"),
        ({**BERT, "architectures": ["GPT2Model"]}, MismatchError, "describes a 'bert', but GPT2Model is a 'gpt2'"),
        ({**BERT, "hidden_size": 9}, MismatchError, "while building the model"),
    ],
)
def test_configurations_that_make_no_model(tmp_path, transformers, config, error, words):
    with pytest.raises(error, match=words):
        built(tmp_path, config)


def test_a_problem_with_the_models_own_loss_tied_weights_and_shifted_labels(tmp_path, transformers):
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config.from_dict(GPT))
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    checkpoint(tmp_path, GPT, {name: value.clone() for name, value in state.items()})
    tokens = torch.randint(19, (3, 7))
    labels = tokens.clone()
    labels[0, 3:] = -100
    save_file({"input_ids": tokens, "labels": labels}, tmp_path / "batch.safetensors")
    batch = BatchOptions(batch=str(tmp_path / "batch.safetensors"), mode="eval")
    problem = open_problem(str(tmp_path), ModelOptions(model="hf"), batch, RunOptions(dtype="float64")).problem
    logits = model.double().eval()(input_ids=tokens).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    assert problem.base.loss == pytest.approx(expected.item(), rel=1e-6)
    names = [tensor.name for tensor in problem.trainable]
    assert "transformer.wte.weight" in names and "lm_head.weight" not in names


NEO = {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "hidden_size": 8, "num_layers": 1}
NEO |= {"num_heads": 2, "attention_types": [[["global"], 1]], "vocab_size": 19}
DISTILBERT = {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"], "dim": 8, "n_layers": 1}
DISTILBERT |= {"n_heads": 2, "hidden_dim": 16, "vocab_size": 19, "sinusoidal_pos_embds": True}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**BERT, "vocab_size": 10**11}, "of 3200000000000 bytes or more, but the checkpoint holds 2 numbers"),
        ({**BERT, "num_hidden_layers": 9999}, "far more layers"),
        ({**NEO, "max_position_embeddings": 20_000}, "of 400000000 bytes or more"),
        ({**DISTILBERT, "max_position_embeddings": 10**6}, "of 32000000 bytes or more"),
    ],
    ids=["words", "layers", "masks", "positions"],
)
def test_a_network_larger_than_the_checkpoint_is_refused_before_it_takes_memory(tmp_path, transformers, config, words):
    with pytest.raises(MismatchError, match=words):
        built(tmp_path, config)


@pytest.mark.parametrize("where", ["beside", "above", "file"])
def test_auto_takes_the_configuration_where_there_is_one(tmp_path, transformers, where):
    given = checkpoint(tmp_path / "checkpoint-5", None if where == "above" else BERT)
    if where == "above":
        (tmp_path / "config.json").write_text(json.dumps(BERT))
    if where == "file":
        given = open_checkpoint(tmp_path / "checkpoint-5" / "model.safetensors")
    for arguments in ({}, {"intermediate_size": 20}):
        model, description = build_model("auto", arguments, given, Declared())
        assert type(model) is transformers.BertForMaskedLM
        assert "config.json" in description


def test_auto_rebuilds_a_perceptron_beside_any_configuration(tmp_path):
    given = checkpoint(tmp_path, {**BERT, "auto_map": {"AutoModel": "x.Y"}}, {"fc.weight": torch.ones(2, 3)})
    assert build_model("auto", {}, given, Declared())[1].startswith("perceptron 3-2")


@pytest.mark.parametrize("spec", ["auto", "hf"])
def test_networks_of_other_libraries_are_named(tmp_path, spec):
    given = checkpoint(tmp_path, {"architecture": "resnet50"})
    with pytest.raises(MismatchError, match="is a network of timm") as caught:
        build_model(spec, {}, given, Declared())
    assert "--model timm:create_model" in caught.value.hint


def test_a_network_that_nothing_describes_says_what_to_give(tmp_path):
    with pytest.raises(MismatchError, match="can be rebuilt") as caught:
        build_model("auto", {}, checkpoint(tmp_path, {"hidden": 3}), Declared())
    assert "file.py:factory" in caught.value.hint and "config.json" in caught.value.hint


def test_of_sentence_transformers_the_encoder_is_built(tmp_path, transformers):
    (tmp_path / "modules.json").write_text("[]")
    model, description = built(tmp_path, {**BERT, "architectures": ["BertModel"]})
    assert type(model) is transformers.BertModel
    assert "only the encoder" in description


def test_an_older_configuration_names_only_its_class(tmp_path, transformers):
    config = {name: value for name, value in BERT.items() if name != "model_type"}
    assert type(built(tmp_path, config)[0]) is transformers.BertForMaskedLM


def test_numbers_that_json_has_not_and_networks_of_ordinary_masks(tmp_path, transformers):
    model, _ = built(tmp_path, {**NEO, "initializer_range": {"__float__": "Infinity"}})
    assert model.config.initializer_range == float("inf")
    assert model.get_buffer("transformer.h.0.attn.attention.bias").shape[-1] == 2048
