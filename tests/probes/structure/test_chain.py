import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.missing import Missing
from fromage_cli.probes.structure.chain import Chain, theorem_chain
from fromage_cli.problem.networks.perceptron import build_perceptron
from fromage_cli.problem.user_code.declared import Declared


def linear(inputs, outputs, bias=False):
    return nn.Linear(inputs, outputs, bias=bias)


def test_chains_of_the_theorem():
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(linear(4, 4), nn.LeakyReLU(0.2)), nn.Dropout(0.5), linear(4, 6), nn.PReLU(init=2.0)
    )
    assert theorem_chain(model, dropout=False) == Chain(("1.0.weight", "3.weight"), 0.2, 2.0)
    twice = linear(4, 4)
    assert theorem_chain(nn.Sequential(twice, twice), dropout=False) == Chain(("0.weight", "1.weight"), 1.0, 1.0)
    assert theorem_chain(linear(3, 3), dropout=False) == Chain(("weight",), 1.0, 1.0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(linear(4, 4, bias=True), nn.LeakyReLU()), "0 has a bias"),
        (nn.Sequential(linear(4, 3), nn.LeakyReLU()), "0.weight has fewer outputs than inputs"),
        (nn.Sequential(linear(4, 4), nn.ReLU()), "ReLU has slopes down to 0"),
        (nn.Sequential(linear(4, 4), nn.Tanh()), "Tanh has slopes down to 0"),
        (nn.Sequential(linear(4, 4), nn.BatchNorm1d(4)), "1 is a BatchNorm1d"),
        (nn.Sequential(nn.Conv1d(1, 1, 1)), "not a plain chain"),
        (nn.Sequential(nn.LeakyReLU()), "no linear layer"),
        (nn.Sequential(linear(4, 4), nn.LeakyReLU(-0.5)), "slopes down to 0"),
    ],
)
def test_what_the_theorem_does_not_speak_of(model, words):
    found = theorem_chain(model, dropout=False)
    assert isinstance(found, Missing) and words in found.words


def test_dropout_that_is_on_is_no_part_of_the_theorem():
    found = theorem_chain(nn.Sequential(linear(2, 2), nn.Dropout()), dropout=True)
    assert isinstance(found, Missing) and "Dropout" in found.words


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        (Declared(activation="leaky_relu"), Chain(("0.weight", "2.weight"), 0.01, 1.0)),
        (Declared(activation="identity"), Chain(("0.weight", "2.weight"), 1.0, 1.0)),
        (Declared(activation="relu"), "slopes down to 0"),
        (Declared(activation="leaky_relu", residual=True), "skip connections"),
    ],
)
def test_rebuilt_perceptrons(declared, found):
    entries = {name: TensorEntry(name, "float32", (3, 3)) for name in ("0.weight", "2.weight")}
    model, _ = build_perceptron(entries, declared)
    chain = theorem_chain(model, dropout=False)
    assert chain == found if isinstance(found, Chain) else found in chain.words


def test_slopes_are_read_where_they_stand():
    model = nn.Sequential(linear(2, 2), nn.PReLU(2))
    model[1].weight.data = torch.tensor([0.25, 0.75])
    assert theorem_chain(model, dropout=False) == Chain(("0.weight",), 0.25, 1.0)


def test_nonlinearities_in_a_row_multiply_and_one_before_the_matrices_does_not_count():
    model = nn.Sequential(nn.LeakyReLU(0.01), linear(4, 4), nn.LeakyReLU(0.5), nn.LeakyReLU(0.2), linear(4, 4))
    assert theorem_chain(model, dropout=False) == Chain(("1.weight", "4.weight"), 0.1, 1.0)
    steep = nn.Sequential(linear(4, 4), nn.LeakyReLU(3.0), nn.PReLU(init=2.0), linear(4, 4), nn.LeakyReLU(0.5))
    assert theorem_chain(steep, dropout=False) == Chain(("0.weight", "3.weight"), 0.5, 6.0)
