from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.errors import InputError
from fromage_cli.problem.networks.unsupported import refuse_unsupported


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4)
        self.lora_A = nn.ParameterDict({"default": torch.zeros(2, 4)})


def test_an_ordinary_network_is_measured_until_a_tensor_is_added_to_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2), nn.Embedding(3, 2))
    refuse_unsupported(model)
    model[0].lora_A = nn.Parameter(torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"1 adapter tensor \('0\.lora_A'\)"):
        refuse_unsupported(model)


def test_adapters_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"1 adapter tensor \('lora_A\.default'\)") as refused:
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
    with pytest.raises(InputError, match=r"1 complex tensor \('phase'\)"):
        refuse_unsupported(model)


def test_quantised_modules_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    quantised = torch.ao.nn.quantized.dynamic.Linear(2, 2)
    model.add_module("packed", quantised)
    with pytest.raises(InputError, match="'packed'"):
        refuse_unsupported(model)


def test_tensors_of_a_byte_and_of_quantising_classes_are_refused_by_name() -> None:
    model = nn.Linear(2, 2)
    model.narrow = nn.Parameter(torch.zeros(4).to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(InputError, match=r"1 quantised part \('narrow'\)"):
        refuse_unsupported(model)
    kind = type("Packed", (torch.Tensor,), {"__module__": "torchao.dtypes"})
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2, 2).as_subclass(kind))
    with pytest.raises(InputError, match=r"1 quantised part \('weight'\)"):
        refuse_unsupported(model)


def on_one_memory(first: torch.Tensor, second: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.encoder, model.decoder = nn.Parameter(first), nn.Parameter(second)
    return model


@pytest.mark.parametrize(
    "views",
    [lambda m: (m, m), lambda m: (m, m.T), lambda m: (m[:3], m[2:]), lambda m: (m[:, ::2], m[:, 2:])],
    ids=["the whole", "transposed", "overlapping rows", "interleaved columns"],
)
def test_two_parameters_on_the_same_memory_are_refused_by_name(views: Any) -> None:
    with pytest.raises(InputError, match="'encoder' and 'decoder' are two parameters in the same memory") as refused:
        refuse_unsupported(on_one_memory(*views(torch.randn(4, 4))))
    assert "decoder = encoder" in refused.value.hint


@pytest.mark.parametrize(
    "views",
    [lambda m: (m[:2], m[2:]), lambda m: (m[:, ::2], m[:, 1::2]), lambda m: (m, m.clone()), lambda m: (m[:0], m)],
    ids=["stretches", "columns in turn", "copies", "an empty one"],
)
def test_views_are_measured_where_writing_one_leaves_the_other(views: Any) -> None:
    model = on_one_memory(*views(torch.randn(4, 4)))
    refuse_unsupported(model)
    with torch.no_grad():
        model.encoder.fill_(1.0)
        model.decoder.fill_(2.0)
    assert bool((model.encoder == 1.0).all())


def test_one_parameter_may_have_two_names_and_share_its_memory_with_one_that_stands_still() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[2].weight = nn.Parameter(model[0].weight.detach(), requires_grad=False)
    refuse_unsupported(model)
    model[2].weight.requires_grad_()
    with pytest.raises(InputError, match=r"'0\.weight' and '2\.weight' are two parameters"):
        refuse_unsupported(model)


def test_an_expanded_parameter_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'encoder' share memory with each other"):
        refuse_unsupported(on_one_memory(torch.randn(1, 4).expand(3, 4), torch.ones(2)))


def test_tensors_without_memory_share_none() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta"))
    refuse_unsupported(model)
    model[1].weight = nn.Parameter(torch.zeros(2, 2))
    model[2].weight = nn.Parameter(model[1].weight.detach())
    with pytest.raises(InputError, match=r"'1\.weight' and '2\.weight' are two parameters"):
        refuse_unsupported(model)
