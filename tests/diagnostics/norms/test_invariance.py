import torch
from torch import nn

from fromage_cli.diagnostics.norms.invariance import examine_layers


def test_layers_go_by_their_names_in_the_checkpoint(make_problem, classification):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    calls: list[int] = []
    problem = make_problem(model, classification)
    found = examine_layers(problem, {"net.0.weight": problem.layers[0]}, lambda: calls.append(1))
    assert list(found) == ["net.0.weight"] and len(calls) == 1
    layer = found["net.0.weight"]
    assert (layer.kind, layer.invariance.granularity, layer.dead_bias) == ("Linear", "channel", True)
