import pytest
import torch
from torch import nn

from fromage_cli.errors import InputError
from fromage_cli.problem.support import refuse_unsupported


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4)
        self.lora_A = nn.ParameterDict({"default": torch.zeros(2, 4)})


def test_ordinary_networks_pass() -> None:
    refuse_unsupported(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2), nn.Embedding(3, 2)))


def test_adapters_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"1 adapter tensors, first 'lora_A\.default'") as refused:
        refuse_unsupported(Adapted())
    assert "merge_and_unload" in refused.value.hint


def test_whole_numbers_as_parameters_are_refused_by_name() -> None:
    model = nn.Linear(2, 2)
    model.codes = nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="'codes'"):
        refuse_unsupported(model)


def test_complex_weights_are_refused_by_name() -> None:
    model = nn.Linear(2, 2)
    model.phase = nn.Parameter(torch.zeros(4, dtype=torch.complex64))
    with pytest.raises(InputError, match="1 complex tensors, first 'phase'"):
        refuse_unsupported(model)


def test_quantised_modules_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    quantised = torch.ao.nn.quantized.dynamic.Linear(2, 2)
    model.add_module("packed", quantised)
    with pytest.raises(InputError, match="'packed'"):
        refuse_unsupported(model)
