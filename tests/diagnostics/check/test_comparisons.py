"""What several layers, or several answers together, tell."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.check.comparisons import GROWN, LARGE, SHRUNK, Answered, find_out_of_line, judge_together
from fromage_cli.diagnostics.check.result import OutOfLine
from fromage_cli.theory.siblings import WEIGHT_FACTOR


def tensor(name: str, weights: torch.Tensor) -> Any:
    rms = float(weights.double().square().mean().sqrt())
    return SimpleNamespace(name=name, shape=tuple(weights.shape), rms=rms, max_abs=float(weights.abs().max()))


def layer(name: str, factor: float = 1.0, *, verdict: str = "untested", **others: Any) -> Any:
    """A layer of 8 × 8 whose norm begins at 1."""
    told = {
        "kind": None,
        "unchanged": False,
        "never_updated": False,
        "shape": (8, 8),
        "parameters": 64,
        "first_norm": 1.0,
    } | others
    invariance = SimpleNamespace(verdict=verdict)
    return SimpleNamespace(name=name, norms=(1.0, factor), first_to_last=factor, invariance=invariance, **told)


def group(decay: float, remaining: float = 1.0) -> Any:
    return SimpleNamespace(
        weight_decay=decay, remaining=remaining, learning_rate=0.1, timescale=1.0 / (0.1 * decay or 1)
    )


def codes(answered: Answered) -> list[tuple[str, str, str | None]]:
    found = judge_together(answered, find_out_of_line(answered))
    return [(one.code, one.severity, one.layer) for one in found]


def run(*layers: Any, groups: Any = ()) -> Answered:
    return Answered(state=SimpleNamespace(groups=groups), norms=SimpleNamespace(layers=layers))


def test_a_matrix_out_of_line_with_those_of_other_blocks() -> None:
    sizes = {f"blocks.{block}.up.weight": 10.0 if block == 2 else 1.0 + 0.01 * block for block in range(6)}
    tensors = [SimpleNamespace(name=name, shape=(8, 4), rms=size, max_abs=1.0) for name, size in sizes.items()]
    tensors += [SimpleNamespace(name=f"blocks.{block}.bias", shape=(8,), rms=10.0**block) for block in range(6)]
    (odd,) = find_out_of_line(Answered(inspect=SimpleNamespace(tensors=tensors)))
    assert (odd.name, odd.among) == ("blocks.2.up.weight", "siblings")
    assert odd.factor == pytest.approx(10.0, rel=0.05)
    assert find_out_of_line(Answered()) == ()
    same_shape = {"wte.weight": 10.0, "a.weight": 1.0, "b.weight": 1.0, "c.weight": 1.1, "d.weight": 0.9}
    tables = [SimpleNamespace(name=name, shape=(8, 8), rms=size, max_abs=1.0) for name, size in same_shape.items()]
    assert find_out_of_line(Answered(inspect=SimpleNamespace(tensors=tables))) == ()


@pytest.mark.parametrize("widths", [(3, 16, 64, 10), (784, 300, 100, 30, 10)])
def test_a_layer_that_begins_ten_times_too_large_is_named_in_any_shapes(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)] + [nn.Conv2d(5, 7, 3)]
    named = [(f"{place}.weight", one.weight.detach()) for place, one in enumerate(layers)]
    assert find_out_of_line(Answered(inspect=SimpleNamespace(tensors=[tensor(*one) for one in named]))) == ()
    large = [tensor(name, 10.0 * weights if name == "1.weight" else weights) for name, weights in named]
    large += [tensor("token.weight", 50.0 * torch.ones(8, 8)), tensor("norm.weight", torch.ones(100, 100))]
    (odd,) = find_out_of_line(Answered(inspect=SimpleNamespace(tensors=large)))
    assert (odd.name, odd.among) == ("1.weight", "network")
    assert odd.factor == pytest.approx(10.0, rel=0.2)


def test_without_siblings_a_network_has_to_tell_the_kinds() -> None:
    norms = {"a": 1.0, "b": 1.1, "c": 0.9, "d": LARGE * 1.2, "embed": 99.0}
    sized = [
        {"name": name, "first_norm": norm * 8, "shape": (4, 16 + place)}
        for place, (name, norm) in enumerate(norms.items())
    ]
    assert codes(run(*(layer(**one) for one in sized))) == [("layer-large", "info", "d")]
    told = {"embed": "Embedding", "d": "Linear"}
    assert codes(run(*(layer(**one, kind=told.get(one["name"], "Linear")) for one in sized))) == [
        ("layer-large", "warn", "d")
    ]
    for kind in ("Embedding", "Perceiver", "Bilinear"):  # which have sizes of their own
        kinds = told | {"d": kind}
        assert codes(run(*(layer(**one, kind=kinds.get(one["name"], "Conv2d")) for one in sized))) == []
    head = layer("unembed", kind="Linear", first_norm=99.0 * 8)  # a name like a table's, and none
    others = [layer(**one, kind="Linear") for one in sized[:4] if one["name"] != "d"]
    assert codes(run(*others, head)) == [("layer-large", "warn", "unembed")]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_have_the_size_of_their_outputs(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"rnn": getattr(nn, kind)(512, 64, num_layers=2), "out": nn.Linear(64, 10)})
    for name, parameter in network.named_parameters():
        for odd in (None, name):
            layers = [
                layer(
                    own,
                    kind=kind if own.startswith("rnn") else "Linear",
                    shape=tuple(weights.shape),
                    parameters=weights.numel(),
                    first_norm=float(weights.detach().norm()) * (10.0 if own == odd else 1.0),
                )
                for own, weights in network.named_parameters()
                if weights.ndim > 1
            ]
            found = codes(run(*layers))
            assert found == ([] if odd is None or parameter.ndim < 2 else [("layer-large", "warn", name)])


def test_few_layers_are_held_against_the_usual_size() -> None:
    def two(first: float, kind: str | None) -> list[tuple[str, str, str | None]]:
        sizes = {"hidden": first, "out": 1.0 / 3.0**0.5}
        return codes(run(*(layer(name, kind=kind, first_norm=size * 8**0.5) for name, size in sizes.items())))

    for size in (0.58, 1.0, 2.0**0.5, 3.0):
        assert two(size, "Linear") == []
    assert two(10.0 / 3.0**0.5, "Linear") == [("layer-large", "warn", "hidden")]
    assert two(10.0 / 3.0**0.5, None) == []  # it may be anything


def test_a_layer_out_of_line_is_named_with_its_factor() -> None:
    siblings = (OutOfLine("layers.2.weight", 10.0, "siblings"), OutOfLine("layers.3.weight", 0.1, "siblings"))
    large, small = judge_together(Answered(), siblings)
    assert (large.layer, large.value, large.limit) == ("layers.2.weight", 10.0, WEIGHT_FACTOR)
    assert large.message == "its weights are 10 × as large as in its sibling layers"
    assert small.message == "its weights are 0.1 × as large as in its sibling layers"
    assert (large.severity, small.severity) == ("warn", "info")


def test_decay_is_too_strong_where_it_shrinks_most_layers() -> None:
    shrunk, kept = (run(layer("a", by), layer("b", by), groups=(group(1.0, 0.2),)) for by in (SHRUNK / 2, SHRUNK * 1.1))
    assert codes(shrunk) == [("decay-too-strong", "warn", None)] and codes(kept) == []
    nothing_left = run(layer("a", SHRUNK / 2), groups=(group(1.0, 0.0),))
    assert codes(nothing_left) == [("decay-too-strong", "warn", None)]
    (found,) = judge_together(shrunk, ())
    assert found.value == SHRUNK / 2 and "(1) or the learning rate (0.1)" in found.hint and "10 steps" in found.hint
    for harmless in (group(0.0, 0.2), group(1e-3, 0.9)):
        assert codes(run(layer("a", SHRUNK / 2), groups=(harmless,))) == []


def test_growth_without_decay_is_told_of_scale_invariant_layers() -> None:
    grown = layer("a", GROWN * 1.5, verdict="invariant")
    assert codes(run(grown, layer("b"), groups=(group(0.0),))) == [("grows-without-decay", "warn", "a")]
    for groups in ((group(0.1),), ()):
        assert codes(run(grown, groups=groups)) == []
    assert codes(run(layer("a", GROWN * 1.5, verdict="none"), groups=(group(0.0),))) == []


def test_a_layer_that_stays_behind_others_was_forgotten() -> None:
    still = {"unchanged": True}
    for name in ("b.weight", "qkv_proj", "attention.w1", "in_proj_weight", "W_q", "conv.kernel"):
        assert codes(run(layer("a"), layer(name, **still), layer("c"))) == [("layer-forgotten", "warn", name)]
    for name in ("h.0.tril", "attn.bias", "pe", "mask", "rotary.freqs"):  # buffers
        assert codes(run(layer("a"), layer(name, **still), layer("c"))) == []
    assert codes(run(layer("a"), layer("b.weight", never_updated=True))) == [("layer-forgotten", "warn", "b.weight")]
    assert codes(run(layer("a", **still), layer("b", **still), layer("c"), layer("d"))) == []  # the first ones
    assert codes(run(layer("a"), layer("b.weight", **still), layer("c.weight", **still))) == []  # most of them
    assert codes(run(layer("a"), layer("wte", **still), layer("c"))) == []  # a lookup table, wherever it is listed


@pytest.mark.parametrize("kind", [lambda: nn.Linear(50, 40), lambda: nn.Conv2d(16, 32, 3)])
def test_a_first_layer_with_the_weights_that_torch_draws_was_forgotten(kind: Any) -> None:
    torch.manual_seed(0)
    weights = kind().weight.detach()
    layers = SimpleNamespace(layers=[layer("first", unchanged=True), layer("second")])
    for stored, found in ((weights, ["layer-forgotten"]), (weights.bfloat16().float(), ["layer-forgotten"])):
        answered = Answered(inspect=SimpleNamespace(tensors=[tensor("first", stored)]), norms=layers)
        assert [code for code, _, _ in codes(answered)] == found
    trained = weights + 0.3 * math.sqrt(float(weights.square().mean())) * torch.randn_like(weights)
    answered = Answered(inspect=SimpleNamespace(tensors=[tensor("first", trained)]), norms=layers)
    assert codes(answered) == []
