import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.norms.invariance import examine_layers
from fromage_cli.problem.weights import load_weights


def test_layers_go_by_their_names_in_the_checkpoint(make_problem, classification, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    save_file({f"net.{name}": value for name, value in model.state_dict().items()}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    load_weights(model, checkpoint)
    calls: list[int] = []
    problem = make_problem(model, classification)
    found = examine_layers(problem, checkpoint, ["net.0.weight", "elsewhere"], lambda: calls.append(1))
    assert list(found.layers) == ["net.0.weight"] and found.stopped is None and len(calls) == 1
    layer = found.layers["net.0.weight"]
    assert (layer.kind, layer.invariance.granularity, layer.dead_bias) == ("Linear", "channel", True)
