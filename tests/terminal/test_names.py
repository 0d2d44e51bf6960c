import io
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.names import fitted, shown_names
from fromage_cli.terminal.tables import Column, house_table

BLOCKS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
BLOCKS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
LLAMA = [
    "model.embed_tokens.weight",
    *(f"model.layers.{place}.{part}.weight" for place in (0, 1) for part in BLOCKS),
    "model.layers.10.mlp.down_proj.weight",
]
"""Sixteen names."""


@pytest.mark.parametrize(
    ("names", "shown", "pattern"),
    [
        (["a.0.weight", "a.1.weight"], ("a.0", "a.1"), "*.weight"),  # a number alone would say little
        (["net.a.w", "net.b.w"], ("a", "b"), "net.*.w"),
        (["net.h.0.w", "net.h.1.w"], ("h.0", "h.1"), "net.*.w"),
        (["a.weight", "a.bias"], ("weight", "bias"), "a.*"),
        (["weight", "a.weight"], ("weight", "a.weight"), ""),  # the first would vanish
        (["only.weight"], ("only.weight",), ""),
        (["same.w", "same.w"], ("same.w", "same.w"), ""),
        ([], (), ""),
    ],
)
def test_what_all_names_share_is_dropped(names, shown, pattern):
    found = shown_names(names)
    assert (found.names, found.pattern) == (shown, pattern)


def test_sixteen_names_of_a_transformer_stay_apart():
    shown = shown_names(LLAMA)
    assert shown.pattern == "model.*.weight"
    assert fitted(shown.names, 80) == list(shown.names)
    for width in (24, 16):
        cut = fitted(shown.names, width)
        assert len(set(cut)) == 16 and max(map(cell_len, cut)) <= width
    assert fitted(shown.names, 16)[:3] == ["embed_tokens", "…0…q_proj", "…0…k_proj"]


def test_a_short_name_cannot_be_read_as_that_of_a_hidden_row():
    every = [f"{side}.layers.0.{part}" for side in ("encoder", "decoder") for part in ("norm.weight", "attention.bias")]
    assert fitted(every[:2], 24) == ["…layers.0.norm.weight", "…layers.0.attention.bias"]
    assert fitted(every[:2], 24, all_names=every) == ["encoder…0.norm.weight", "encoder…0.attention.bias"]
    assert fitted(["output.weight", every[1]], 24)[0] == "output.weight"  # one that fits stays whole


ATTENTION = ("attention.self.query", "attention.self.key", "attention.output.dense", "intermediate.dense")
REAL = {
    "Llama": [
        "model.embed_tokens",
        *(f"model.layers.{place}.{part}" for place in range(32) for part in BLOCKS),
        "lm_head",
    ],
    "BERT": [
        *(f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")),
        *(f"bert.encoder.layer.{place}.{part}" for place in range(12) for part in (*ATTENTION, "output.dense")),
        *("bert.pooler.dense", "classifier"),
    ],
    "ViT": [
        *("vit.embeddings.position_embeddings", "vit.embeddings.patch_embeddings.projection", "classifier"),
        *(f"vit.encoder.layer.{place}.{part}" for place in range(12) for part in (*ATTENTION, "output.dense")),
    ],
    "ResNet": [
        *("conv1", "fc"),
        *(f"layer{stage}.{block}.conv{n}" for stage in range(1, 5) for block in range(3) for n in (1, 2, 3)),
        *(f"layer{stage}.0.downsample.0" for stage in range(1, 5)),
    ],
    "T5": [
        "shared",
        *(
            f"{side}.block.{place}.layer.{part}"
            for side in ("encoder", "decoder")
            for place in range(12)
            for part in (*(f"0.SelfAttention.{one}" for one in "qkvo"), "1.DenseReluDense.wi_0", "1.DenseReluDense.wo")
        ),
        *(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias" for side in ("encoder", "decoder")),
    ],
}


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("model", REAL)
def test_no_two_rows_of_a_real_network_look_alike(model, width):
    names = [f"{name}.weight" for name in REAL[model]]
    rows = [(name, 0.000123, "32×32") for name in names]
    columns = [Column("layer", name=True), Column("sure to η"), Column("shape", left=True, optional=1)]
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(house_table(columns, rows, PageStyle(width=width)))
    lines = stream.getvalue().splitlines()[2 : 2 + len(rows)]
    shown = [line.split()[0] for line in lines]
    assert len(set(shown)) == len(rows) and all(len(line) <= width for line in lines)
    for name, short in zip(names, shown, strict=True):
        assert re.findall("[0-9]+", name) == re.findall("[0-9]+", short) and "……" not in short
    narrow = fitted(shown_names(names).names, 16)
    assert len(set(narrow)) == len(rows) and not any("……" in name for name in narrow)


def test_a_name_that_cannot_be_cut_stays_whole():
    assert fitted(["a1b2c3d4e5f6g7h8", "x"], 4) == ["a1b2c3d4e5f6g7h8", "x"]
    assert fitted(["encoder1", "encodes1"], 5) == ["encoder1", "encodes1"]  # shortened they would be alike
    assert fitted(["encoder.attention.1"], 12, dots="..") == ["..1"]
    assert fitted([], 5) == []


parts = st.text(st.sampled_from("abcdefgh0123"), min_size=1, max_size=9)
dotted = st.lists(parts, min_size=1, max_size=5).map(".".join)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(dotted, min_size=1, max_size=12), st.integers(1, 40))
def test_no_digit_is_cut_and_no_two_names_look_alike(names, width):
    shown = shown_names(names)
    assert len(set(shown.names)) == len(set(names))
    assert [f"{shown.prefix}{name}{shown.suffix}" for name in shown.names] == list(names)
    cut = fitted(shown.names, width)
    assert len(set(cut)) == len(set(names))
    for whole, short in zip(shown.names, cut, strict=True):
        assert re.findall(r"\d+", whole) == re.findall(r"\d+", short)
        assert cell_len(short) <= max(cell_len(whole), width)
