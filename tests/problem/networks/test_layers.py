import torch
from torch import nn

from fromage_cli.problem.networks.layers import frozen_names, owner_of, trainable_tensors


def test_owners() -> None:
    assert owner_of("a.b.weight") == ("a.b", "weight")
    assert owner_of("weight") == ("", "weight")
    assert owner_of("a.parametrizations.weight.original1") == ("a", "weight")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight


def test_a_tied_tensor_counts_once_under_its_first_name() -> None:
    (tensor,) = trainable_tensors(Tied())
    assert tensor.name == "embedding.weight"
    assert tensor.aliases == ("output.weight",)
    assert tensor.kind == "Embedding"


def test_frozen_tensors_are_left_out_and_listed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    assert [tensor.name for tensor in trainable_tensors(model)] == ["0.bias", "1.weight", "1.bias"]
    assert frozen_names(model) == ["0.weight"]


def test_layers_have_two_or_more_dimensions() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert [(t.name, t.is_layer) for t in trainable_tensors(model)] == [
        ("0.weight", True),
        ("0.bias", False),
        ("1.weight", False),
        ("1.bias", False),
    ]


def test_a_parametrized_tensor_belongs_to_the_module_it_parametrizes() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert {tensor.kind for tensor in trainable_tensors(layer)} == {"Linear"}
    assert {tensor.kind for tensor in trainable_tensors(nn.Sequential(layer))} == {"Linear"}


def test_scripted_modules_keep_the_classes_that_they_were_scripted_from() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    assert [tensor.kind for tensor in trainable_tensors(scripted)] == ["Linear"] * 2 + ["BatchNorm1d"] * 2


def test_parameters_of_the_root_module_have_its_class() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    assert trainable_tensors(Root())[0].kind == "Root"
