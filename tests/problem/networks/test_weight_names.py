import torch
from torch import nn

from fromage_cli.problem.networks.weight_names import is_computed, match_names, missing_names


def expected(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict(keep_vars=True))


def test_the_renaming_with_the_most_matches_wins_and_names_as_they_are_win_a_draw() -> None:
    model = expected(nn.Linear(2, 2))
    assert match_names(model, {"weight": 0, "bias": 0}).note == ""
    prefixed = match_names(model, {"net.weight": 0, "net.bias": 0, "other.weight": 0})
    assert prefixed.stored == {"weight": "net.weight", "bias": "net.bias"}
    assert prefixed.unexpected == ("other.weight",)
    assert "'net.'" in prefixed.note
    assert match_names(model, {"weight": 0, "net.weight": 0}).stored == {"weight": "weight"}


def test_of_ties_one_name_is_enough() -> None:
    model = nn.Module()
    model.first = nn.Linear(2, 2, bias=False)
    model.second = nn.Linear(2, 2, bias=False)
    names = expected(model)
    assert missing_names(names, match_names(names, {"first.weight": 0})) == ["second.weight"]
    model.second.weight = model.first.weight
    names = expected(model)
    assert missing_names(names, match_names(names, {"first.weight": 0})) == []


def test_masks_are_square_and_counters_have_their_names() -> None:
    assert is_computed("attn.bias", (1, 1, 8, 8))
    assert not is_computed("attn.bias", (8,))
    assert not is_computed("attn.bias", (2, 1, 8, 8))
    assert is_computed("1.num_batches_tracked", ())
    assert not is_computed("1.running_mean", (4,))


def test_a_models_own_module_is_no_wrapper() -> None:
    outer = nn.Module()
    outer.block = nn.Module()
    outer.block.module = nn.Linear(2, 2)
    match = match_names(expected(outer), {"block.weight": 0, "block.bias": 0})  # as checkpoints strip `module.`
    assert match.stored == {"block.module.weight": "block.weight", "block.module.bias": "block.bias"}
    assert "the model's names have them too" in match.note


def test_of_buffers_only_those_that_models_compute_may_be_missing() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.ones(4, 4))
    model.register_buffer("table", torch.ones(4, 4))
    names = expected(model)
    assert missing_names(names, match_names(names, {"weight": 0, "bias": 0})) == ["table"]


def test_the_best_of_several_prefixes_is_removed_or_added() -> None:
    inner = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2, bias=False)})
    several = {"x.a.weight": 0, "y.a.weight": 0, "y.a.bias": 0, "y.b.weight": 0, "x.a.bias": 0}
    assert match_names(expected(inner), several).stored["b.weight"] == "y.b.weight"
    outer = nn.ModuleDict({"net": inner, "other": nn.Linear(2, 2)})
    match = match_names(expected(outer), {"a.weight": 0, "a.bias": 0, "b.weight": 0, "weight": 0})
    assert match.stored == {"net.a.weight": "a.weight", "net.a.bias": "a.bias", "net.b.weight": "b.weight"}
    assert "'net.'" in match.note
