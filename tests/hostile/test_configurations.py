"""Configurations of a few hundred bytes beside weights of a few: what they describe is counted before it is built."""

import json

import pytest
import torch
from safetensors.torch import save_file

SIZES = {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "max_position_embeddings": 16, **SIZES}
NEO = {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "hidden_size": 8, "num_layers": 1}
NEO |= {"num_heads": 2, "attention_types": [[["global"], 1]], "vocab_size": 19}
XLM = {"model_type": "xlm", "architectures": ["XLMWithLMHeadModel"], "emb_dim": 8, "n_layers": 1, "n_heads": 2}
XLM |= {"n_words": 19, "sinusoidal_embeddings": True}
MIXTRAL = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_key_value_heads": 2, **SIZES}
CLIP = {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": SIZES}
DEEP = "[" * 900 + "]" * 900


@pytest.fixture(scope="module", autouse=True)
def library():
    """Import what is measured, so that only the configurations are."""
    transformers = pytest.importorskip("transformers")
    for config in (BERT, NEO, XLM, MIXTRAL, CLIP):
        getattr(transformers, config["architectures"][0])


def laid(directory, config):
    save_file({"w": torch.ones(2)}, directory / "model.safetensors")
    (directory / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return directory


@pytest.mark.parametrize(
    "config",
    [
        {**BERT, "num_labels": 10**9},
        {**BERT, "num_labels": 9999, "num_hidden_layers": 9999},
        {**BERT, "vocab_size": 10**11},
        {**BERT, "hidden_size": 10**7},
        {**BERT, "max_position_embeddings": 10**9},
        {**BERT, "id2label": {str(number): "x" for number in range(100_000)}},
        {**BERT, "vision_config": {"depths": [2, 10**8]}},
        {**NEO, "max_position_embeddings": 60_000},
        {**XLM, "max_position_embeddings": 10**7},
        {**MIXTRAL, "num_local_experts": 9999, "num_hidden_layers": 9999},
        {**CLIP, "vision_config": {"num_hidden_layers": 10**9}},
        {**CLIP, "vision_config": {"image_size": 10**6, "patch_size": 1}},
        {**CLIP, "vision_config": {"hidden_size": 10**9}, "projection_dim": 10**9},
        json.dumps(BERT)[:-1] + f', "deep": {DEEP}}}',
        json.dumps(BERT)[:-1] + f', "num_labels": 1{"0" * 4000}}}',
    ],
    ids=lambda config: str(config)[-60:],
)
def test_networks_that_swell(ask, tmp_path, config):
    directory = laid(tmp_path, config)
    ask("breakdown", directory, "--model", "hf", codes=(3, 5))
