import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from fromage_cli.probes.structure.layer_modules import bias_of, head_counts, output_scales
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


class Several(nn.Module):
    """Layers whose biases go by several names."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.without = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.normed, self.recurrent = weight_norm(nn.Linear(4, 4)), nn.LSTM(4, 4, batch_first=True)
        self.kernel, self.shift = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.zeros(4))
        self.output = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.without(self.plain(x)) @ self.kernel + self.shift
        return self.output(self.recurrent(self.normed(x)[:, None])[0][:, -1])


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("plain.weight", "plain.bias"),
        ("without.weight", None),
        ("normed.parametrizations.weight.original1", "normed.bias"),
        ("recurrent.weight_hh_l0", "recurrent.bias_hh_l0"),
        ("kernel", "shift"),
        ("output.weight", "output.bias"),
    ],
)
def test_biases(make_problem: Maker, name: str, bias: str | None) -> None:
    problem = make_problem(Several(), {"x": torch.randn(6, 4), "y": torch.randint(3, (6,))})
    found = bias_of(problem, next(layer for layer in problem.layers if layer.name == name))
    assert (found.name if found else None) == bias


def test_heads_of_modules_around_and_of_configurations() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    assert head_counts(model, "0.0.weight") == set()
    model[0].num_heads = 4  # type: ignore[assignment]
    model.config = SimpleNamespace(num_key_value_heads=2, num_attention_heads=None)  # type: ignore[assignment]
    assert head_counts(model, "0.0.weight") == {2, 4}


def test_the_size_of_what_modules_return(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = Several()
    data = {"x": torch.randn(6, 4), "y": torch.randint(3, (6,))}
    problem = make_problem(model, data)
    found = output_scales(problem, problem.layers)
    plain = model.plain(data["x"]).detach()
    assert found["plain.weight"] == pytest.approx(float(plain.norm()) / math.sqrt(plain.numel()), rel=1e-5)
    assert found["recurrent.weight_ih_l0"] < 1.0
    assert set(found) == {layer.name for layer in problem.layers}
