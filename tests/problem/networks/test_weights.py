from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fromage_cli.checkpoints import Checkpoint, open_checkpoint
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.problem.networks.sharding import spread, without_memory
from fromage_cli.problem.networks.weights import load_weights, other_weights
from tests.forked_ranks import run_ranks


def stored(folder: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    """A checkpoint of these tensors; shared ones are stored as copies."""
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / "m.safetensors"
    )
    return open_checkpoint(folder / "m.safetensors")


def network(device: str = "cpu") -> nn.Sequential:
    with torch.device(device):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name].to(value)) for name, value in first.state_dict().items())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_names_that_agree(tmp_path: Path, device: str) -> None:
    source, model = network(), network(device)
    assert load_weights(model, stored(tmp_path, source.state_dict())) == ()
    assert same(source, model)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())


def test_weights_take_the_precision_of_the_model(tmp_path: Path) -> None:
    source, model = network(), network().double()
    narrow = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in source.state_dict().items()
    }
    load_weights(model, stored(tmp_path, narrow))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert torch.equal(model[0].weight.detach(), source[0].weight.detach().bfloat16().double())
    assert model[1].num_batches_tracked.dtype is torch.int64


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone."])
def test_one_common_prefix_is_removed_or_added_and_said(tmp_path: Path, prefix: str) -> None:
    source, model = network(), network()
    checkpoint = stored(tmp_path, {prefix + name: value for name, value in source.state_dict().items()})
    assert load_weights(model, checkpoint) == (
        f"Removed the prefix '{prefix}' from the checkpoint's names to match the model.",
    )
    assert same(source, model)
    outer = nn.Module()
    outer.add_module(prefix[:-1], network())
    assert "Added the prefix" in load_weights(outer, stored(tmp_path, source.state_dict()))[0]
    assert same(source, outer.get_submodule(prefix[:-1]))


def test_two_networks_in_one_checkpoint_are_not_guessed_between(tmp_path: Path) -> None:
    state = network().state_dict()
    both = {f"{role}.{name}": value for role in ("student", "teacher") for name, value in state.items()}
    with pytest.raises(MismatchError, match="0 missing, 8 unexpected"):
        load_weights(network(), stored(tmp_path, both))


def test_compiled_and_parallel_models_are_loaded_inside(tmp_path: Path) -> None:
    source, model = network(), network()
    load_weights(nn.DataParallel(model), stored(tmp_path, source.state_dict()))
    assert same(source, model)


def test_names_that_differ_come_with_the_nearest_and_all_in_details(tmp_path: Path) -> None:
    state = {name.replace("3.weight", "3.wieght"): value for name, value in network().state_dict().items()}
    with pytest.raises(MismatchError, match="1 missing, 1 unexpected") as caught:
        load_weights(network(), stored(tmp_path, state))
    assert "missing '3.weight'; nearest in the checkpoint '3.wieght'" in caught.value.message
    assert caught.value.details == ("missing: 3.weight", "unexpected: 3.wieght")


def test_long_lists_are_cut_to_three(tmp_path: Path) -> None:
    deep = nn.Sequential(*[nn.Linear(2, 2) for _ in range(10)])
    with pytest.raises(MismatchError) as caught:
        load_weights(deep, stored(tmp_path, {"0.weight": torch.ones(2, 2)}))
    assert len(caught.value.message.splitlines()) == 4
    assert len(caught.value.details) == 19
    with pytest.raises(MismatchError, match=r"unexpected '1\.weight'") as caught:
        load_weights(nn.Sequential(nn.Linear(2, 2)), stored(tmp_path, deep.state_dict()))
    assert len(caught.value.details) == 18
    assert "all tensors of the model and more" in str(caught.value.hint)


def test_missing_running_statistics_are_an_error_and_a_missing_counter_is_not(tmp_path: Path) -> None:
    state = network().state_dict()
    without = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert "num_batches_tracked" in load_weights(network("meta"), stored(tmp_path, without))[0]
    del without["1.running_mean"]
    with pytest.raises(MismatchError, match=r"missing '1\.running_mean'"):
        load_weights(network(), stored(tmp_path, without))


class Attention(nn.Module):
    def __init__(self, mask: bool) -> None:
        super().__init__()
        self.attn = nn.Module()
        self.attn.proj = nn.Linear(3, 3)
        if mask:
            self.attn.register_buffer("bias", torch.ones(4, 4).tril().reshape(1, 1, 4, 4))
            self.attn.register_buffer("masked_bias", torch.tensor(-torch.inf))


def test_masks_that_the_model_computes_may_be_there_or_not(tmp_path: Path) -> None:
    masked, plain = Attention(mask=True), Attention(mask=False)
    notes = load_weights(Attention(mask=False), stored(tmp_path, masked.state_dict()))
    assert notes == ("Ignored 'attn.bias', 'attn.masked_bias': the model computes these buffers itself.",)
    assert "model's own values stay" in load_weights(masked, stored(tmp_path, plain.state_dict()))[0]
    assert load_weights(Attention(mask=True), stored(tmp_path, masked.state_dict())) == ()


def test_a_bias_with_the_name_of_a_mask_is_not_ignored(tmp_path: Path) -> None:
    state = {**Attention(mask=False).state_dict(), "attn.bias": torch.ones(3)}
    with pytest.raises(MismatchError, match=r"unexpected 'attn\.bias'"):
        load_weights(Attention(mask=False), stored(tmp_path, state))


class Tied(nn.Module):
    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, device=device)
        self.head = nn.Linear(3, 5, bias=False, device=device)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kept", [("embedding.weight",), ("head.weight",), ("embedding.weight", "head.weight")])
def test_ties_stay_and_one_name_is_enough(tmp_path: Path, device: str, kept: tuple[str, ...]) -> None:
    value, model = torch.randn(5, 3), Tied(device).double()
    assert load_weights(model, stored(tmp_path, dict.fromkeys(kept, value))) == ()
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight.detach(), value.double())


def test_a_tie_that_the_checkpoint_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"ties 'embedding.weight' and 'head.weight'"):
        load_weights(Tied(), stored(tmp_path, {"embedding.weight": torch.ones(5, 3), "head.weight": torch.zeros(5, 3)}))


def test_shapes_that_differ_are_listed_with_both(tmp_path: Path) -> None:
    state = {**network().state_dict(), "3.weight": torch.ones(7, 4), "3.bias": torch.ones(7)}
    with pytest.raises(MismatchError, match=r"2 shapes differ(?s:.*)3.weight: model \[2, 4\], checkpoint \[7, 4\]"):
        load_weights(network(), stored(tmp_path, state))


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    state = {**network().state_dict(), "3.weight": torch.ones(2, 4).to(kind)}
    with pytest.raises(MismatchError, match=r"3.weight: (u?int8|float8_e4m3fn)") as caught:
        load_weights(network(), stored(tmp_path, state))
    assert "Quantised" in caught.value.hint


def test_weights_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    state = network().state_dict()
    state["0.weight"][0, :2] = torch.nan
    state["1.running_var"][1] = torch.inf
    with pytest.raises(NumericalError, match=r"in 2 tensors: 0.weight: 2 of 12; 1.running_var: 1 of 4"):
        load_weights(network(), stored(tmp_path, state))


def test_a_weight_that_overflows_the_precision_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(NumericalError):
        load_weights(
            nn.Linear(1, 1, bias=False), stored(tmp_path, {"weight": torch.full((1, 1), 1e300, dtype=torch.float64)})
        )


def test_parametrised_weights_load_by_their_own_names(tmp_path: Path) -> None:
    source, model = (parametrizations.weight_norm(nn.Linear(3, 2)) for _ in range(2))
    load_weights(model, stored(tmp_path, source.state_dict()))
    assert torch.equal(model.weight, source.weight)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_the_older_names_of_weight_normalisation_are_understood(tmp_path: Path) -> None:
    source = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)))
    prefixed = {f"net.{name}": value for name, value in source.state_dict().items()}
    load_weights(model, stored(tmp_path, prefixed))
    assert torch.equal(model[0].weight, source[0].weight)


def test_a_buffer_that_nobody_knows_is_said(tmp_path: Path) -> None:
    model = nn.Linear(2, 2, device="meta")
    model.register_buffer("scale", torch.ones(2, device="meta"), persistent=False)
    with pytest.raises(MismatchError, match="meta device, and the checkpoint holds no values for scale"):
        load_weights(model, stored(tmp_path, nn.Linear(2, 2).state_dict()))


def test_lazy_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="lazy layers"):
        load_weights(nn.LazyLinear(2), stored(tmp_path, nn.Linear(3, 2).state_dict()))


class TiedWithNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(5)


def test_the_weights_are_exchanged_and_put_back_bit_for_bit(tmp_path):
    model, second = TiedWithNorm(), TiedWithNorm()
    save_file(
        {"embedding.weight": second.embedding.weight.data, **second.norm.state_dict(prefix="norm.")},
        tmp_path / "b.safetensors",
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with other_weights(model, open_checkpoint(tmp_path / "b.safetensors")) as (own, _):
        assert torch.equal(model.head.weight, second.embedding.weight)
        assert torch.equal(own["embedding.weight"], before["embedding.weight"]) and "head.weight" not in own
        model.norm.running_mean.add_(1.0)
        model.embedding.weight.data.copy_(own.pop("embedding.weight"))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_weights_that_do_not_fit_leave_the_model_as_it_is(tmp_path):
    model = TiedWithNorm()
    before = model.head.weight.detach().clone()
    save_file({"w": torch.ones(2)}, tmp_path / "c.safetensors")
    with pytest.raises(MismatchError), other_weights(model, open_checkpoint(tmp_path / "c.safetensors")):
        pass
    assert torch.equal(model.head.weight, before)


def test_a_weight_that_may_be_missing_may_not_where_no_rank_has_a_value_for_it(tmp_path: Path) -> None:
    """A frozen table that transformers would compute: with `--shard` the network is built without its values."""

    class Positions(nn.Module):
        _keys_to_ignore_on_load_missing = ("positions",)

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.positions = nn.Parameter(torch.ones(6, 2), requires_grad=False)

    save_file(
        {name: each for name, each in Positions().state_dict().items() if name != "positions"},
        tmp_path / "c.safetensors",
    )
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")

    def refused() -> bool:
        with without_memory():
            model = Positions()
        spread(model, torch.device("cpu"))
        with pytest.raises(MismatchError, match="positions"):
            load_weights(model, checkpoint)
        return True

    assert run_ranks(2, refused) == [True, True]
