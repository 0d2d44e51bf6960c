import math

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading import arrays
from fromage_cli.checkpoints.reading.pairs import measure_pair, same_bytes, unchanged


@pytest.fixture
def paired(tmp_path):
    def pair(u, v):
        save_file({"w": u}, tmp_path / "a.safetensors")
        save_file({"w": v}, tmp_path / "b.safetensors")
        first, second = (open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab")
        return measure_pair(first, second, "w")

    return pair


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-4, 0.3, 1.5, 3.0, math.pi - 1e-8])
@pytest.mark.parametrize("growth", [1.0, 1.7])
def test_angles_down_to_rounding_and_up_to_pi(paired, angle, growth):
    generator = torch.Generator().manual_seed(0)
    u, d = (torch.randn(500, 400, dtype=torch.float64, generator=generator) for _ in range(2))
    d -= u * (u * d).sum() / u.square().sum()
    v = growth * (u * math.cos(angle) + d * (u.norm() / d.norm()) * math.sin(angle))
    found = paired(u, v)
    assert found.angle == pytest.approx(angle, rel=1e-6, abs=1e-14)
    assert found.second / found.first == pytest.approx(growth, rel=1e-12)
    exact = math.sqrt(1 + growth**2 - 2 * growth * math.cos(angle)) if angle > 1e-3 or growth > 1 else angle
    assert found.difference / found.first == pytest.approx(exact, rel=1e-6)


def test_a_tensor_and_its_narrower_copy(paired):
    u = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    found = paired(u, u.bfloat16())
    v = u.bfloat16().double()
    assert found.difference == pytest.approx(float((v - u.double()).norm()), rel=1e-12)
    cosine = float((u.double() * v).sum() / (u.double().norm() * v.norm()))
    assert found.angle == pytest.approx(math.acos(cosine), rel=1e-6)


def test_many_chunks(paired, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 10)
    u, v = torch.arange(33.0), torch.arange(33.0).flip(0)
    found = paired(u, v)
    assert found.difference == pytest.approx(float((u - v).double().norm()), rel=1e-14)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_squares_beyond_the_range(paired, size):
    u = torch.tensor([3.0, 4.0], dtype=torch.float64) * size
    found = paired(u, u.flip(0))
    assert found.first == pytest.approx(5 * size) and found.difference == pytest.approx(math.sqrt(2) * size)
    assert found.angle == pytest.approx(math.acos(24 / 25))


def test_what_has_no_angle(paired):
    zero = paired(torch.zeros(3), torch.ones(3))
    assert (zero.first, zero.angle) == (0.0, None) and zero.difference == pytest.approx(math.sqrt(3))
    broken = paired(torch.ones(3), torch.tensor([1.0, math.nan, 2.0]))
    assert math.isnan(broken.difference) and broken.angle is None
    assert paired(torch.ones(0), torch.ones(0)).difference == 0.0


def test_the_same_bytes(tmp_path):
    tensors = {"w": torch.randn(5, 3), "n": torch.tensor([math.nan]), "d": torch.ones(3), "s": torch.ones(2, 3)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(
        tensors | {"w": tensors["w"] + 1e-7, "d": torch.ones(3).double(), "s": torch.ones(3, 2)}, tmp_path / "b.pt"
    )
    first, second = open_checkpoint(tmp_path / "a.safetensors"), open_checkpoint(tmp_path / "b.pt")
    assert [name for name in tensors if same_bytes(first, second, name)] == ["n"]
    assert all(same_bytes(first, first, name) for name in tensors)
    assert [name for name in tensors if unchanged((first, first, second), name)] == ["n"]
    assert [name for name in tensors if unchanged((first, second, first), name)] == ["n"]
    assert unchanged((first, first), "n") and not unchanged((first,), "n")


def test_equal_tensors_are_at_no_distance(paired):
    u = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    found = paired(u, u.clone())
    assert (found.difference, found.angle) == (0.0, 0.0)
