"""Weights of few bits against what they were made from, and what is packed against nothing: it is named."""

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.layers import lasting_layers, layer_entries
from fromage_cli.checkpoints.reading.reductions import measure_norms
from fromage_cli.errors import UsageError

FLOAT8 = torch.float8_e4m3fn


def blocks(weight, block, kind=FLOAT8, most=448.0):
    """A weight in blocks of eight bits, the scale of each, and what the two stand for."""
    rows, columns = (-(-size // block) for size in weight.shape)
    scale, stored, whole = torch.empty(rows, columns), torch.empty(weight.shape, dtype=kind), torch.empty(weight.shape)
    for row in range(rows):
        for column in range(columns):
            place = (slice(row * block, (row + 1) * block), slice(column * block, (column + 1) * block))
            scale[row, column] = weight[place].abs().max() / most
            stored[place] = (weight[place] / scale[row, column]).to(kind)
            whole[place] = stored[place].float() * scale[row, column]
    return stored, scale, whole


def opened(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    return open_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("shape", [(256, 256), (300, 200), (128, 520), (40, 40)])
@pytest.mark.parametrize("ending", ["_scale_inv", "_scale"])
def test_blocks_of_eight_bits_are_multiplied(tmp_path, shape, ending):
    torch.manual_seed(0)
    stored, scale, whole = blocks(torch.randn(shape), 128)
    found = opened(tmp_path, {"a.weight": stored, f"a.weight{ending}": scale, "norm.weight": torch.ones(shape[1])})
    assert list(layer_entries(found)) == ["a.weight"]
    assert torch.equal(found.tensor("a.weight"), whole)
    assert measure_norms([found], ["a.weight"]) == [{"a.weight": pytest.approx(whole.double().norm().item(), rel=1e-6)}]
    assert "Multiplied 1 weight" in found.notes[0]


def test_small_blocks_and_experts(tmp_path):
    weight = torch.randn(3, 64, 96)
    parts = [blocks(one, 32) for one in weight]
    stored, scale, whole = (torch.stack(kind) for kind in zip(*parts, strict=True))
    found = opened(tmp_path, {"experts.w": stored, "experts.w_scale_inv": scale})
    assert torch.equal(found.tensor("experts.w"), whole)


def test_one_scale_for_all_or_for_each_row(tmp_path):
    weight = torch.randn(6, 8).to(FLOAT8)
    row, integers = torch.rand(6, 1), torch.randint(-127, 128, (6, 8), dtype=torch.int8)
    tensors = {"a.weight": weight, "a.weight_scale": torch.tensor(0.5), "a.input_scale": torch.tensor(2.0)}
    tensors |= {"b.weight": weight.clone(), "b.weight_scale": row, "c.weight": integers, "c.SCB": row[:, 0].clone()}
    tensors |= {"d.weight": integers.clone(), "d.weight_scale": row.clone()}
    found = opened(tmp_path, tensors)
    assert list(found.entries) == ["a.weight", "b.weight", "c.weight", "d.weight"]
    assert torch.equal(found.tensor("a.weight"), weight.float() * 0.5)
    assert torch.equal(found.tensor("b.weight"), weight.float() * row)
    torch.testing.assert_close(found.tensor("c.weight"), integers.float() * row / 127)
    assert torch.equal(found.tensor("d.weight"), integers.float() * row)


def test_eight_bits_without_scales_stay_as_they_are(tmp_path):
    weight = torch.randn(4, 4).to(FLOAT8)
    found = opened(tmp_path, {"a.weight": weight})
    assert found.entries["a.weight"].dtype == "float8_e4m3fn"
    assert torch.equal(found.tensor("a.weight").float(), weight.float())


def integers(*shape, kind=torch.int32):
    return torch.randint(0, 100, shape).to(kind)


PACKED = {
    "GPTQ": {
        "q.qweight": integers(32, 256),
        "q.qzeros": integers(2, 32),
        "q.scales": torch.rand(2, 256).half(),
        "q.g_idx": integers(256),
    },
    "AWQ": {"q.qweight": integers(256, 32), "q.qzeros": integers(2, 32), "q.scales": torch.rand(2, 256).half()},
    "MXFP4": {
        "e.down_blocks": integers(2, 64, 2, 16, kind=torch.uint8),
        "e.down_scales": integers(2, 64, 2, kind=torch.uint8),
    },
    "bitsandbytes-4bit": {
        "a.weight": integers(128, 1, kind=torch.uint8),
        "a.weight.absmax": torch.rand(4, 4),
        "a.weight.quant_map": torch.rand(16, 1),
        "a.weight.quant_state.bitsandbytes__nf4": integers(20, kind=torch.uint8),
    },
    "NVFP4": {
        "a.weight": integers(8, 8, kind=torch.uint8),
        "a.weight_scale": torch.rand(8, 1).to(FLOAT8),
        "a.weight_scale_2": torch.tensor(1.0),
    },
    "compressed-tensors": {"a.weight_packed": integers(8, 2), "a.weight_scale": torch.rand(8, 2)},
    "MLX": {"a.weight": integers(8, 2), "a.scales": torch.rand(8, 2), "a.biases": torch.rand(8, 2)},
}


@pytest.mark.parametrize("layout", sorted(PACKED))
def test_what_is_packed_is_named_and_its_scales_are_no_layers(tmp_path, layout):
    found = opened(tmp_path, {**PACKED[layout], "embed.weight": torch.randn(8, 4)})
    assert list(layer_entries(found)) == ["embed.weight"]
    assert found.parameters == 32
    assert {entry.dtype.split()[0] for entry in found.entries.values()} == {layout, "float32"}
    assert layout in found.notes[-1] and "dequantise" in found.notes[-1]
    alone = opened(tmp_path, PACKED[layout])
    with pytest.raises(UsageError, match=layout) as caught:
        lasting_layers([alone])
    assert "dequantise" in caught.value.hint
