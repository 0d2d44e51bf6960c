import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import match_parameters
from fromage_cli.checkpoints.optimizers.saved_optimizer import parse_optimizer
from fromage_cli.checkpoints.optimizers.validation import require_sound
from fromage_cli.checkpoints.storage.stored_tensor import Storage, StoredTensor
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.settings import Given, find_settings

NAMES = ("layers.0.weight", "layers.0.bias", "norm.weight")
SHAPES = {"layers.0.weight": (4, 3), "layers.0.bias": (4,), "norm.weight": (4,)}
SLOTS = {
    name: {"exp_avg": torch.full(shape, float(index)), "step": torch.tensor(2.0)}
    for index, (name, shape) in enumerate(SHAPES.items())
}


def by_name(prefix=""):
    groups = [
        {"params": [prefix + NAMES[0]], "lr": 0.1, "weight_decay": 0.5},
        {"params": [prefix + name for name in NAMES[:0:-1]], "lr": 0.1, "weight_decay": 0.0},
    ]
    return {"state": {prefix + name: slot for name, slot in SLOTS.items()}, "param_groups": groups}


def flattened(prefix=""):
    nested = by_name(prefix)
    flat = {f"state.{name}.{key}": value for name, slot in nested["state"].items() for key, value in slot.items()}
    for group in nested["param_groups"]:
        for name in group["params"]:
            flat |= {f"param_groups.{name}.{key}": value for key, value in group.items() if key != "params"}
    return flat


@pytest.mark.parametrize("form", [by_name, flattened])
@pytest.mark.parametrize("prefix", ["", "module.", "_fsdp_wrapped_module._orig_mod.", "model."])
def test_fully_qualified_names(form, prefix):
    state = parse_optimizer(form(prefix))
    assert [len(group.numbers) for group in state.groups] == [1, 2]
    assert [group.settings for group in state.groups] == [{"lr": 0.1, "weight_decay": decay} for decay in (0.5, 0.0)]
    numbers = match_parameters(state, SHAPES)
    assert {name: float(state.slots[number]["exp_avg"].mean()) for name, number in numbers.items()} == {
        name: index for index, name in enumerate(NAMES)
    }


def test_names_of_a_part_of_the_model_are_found_too():
    shorter = {f"net.{name}": shape for name, shape in SHAPES.items()}
    assert match_parameters(parse_optimizer(by_name()), shorter)["net.layers.0.weight"] == 0


def test_names_that_fit_with_shapes_that_do_not_are_refused():
    with pytest.raises(MismatchError, match=r"'norm.weight' has shape \[4\], but the tensor has \[5\]"):
        match_parameters(parse_optimizer(by_name()), {**SHAPES, "norm.weight": (5,)})


def test_names_given_to_torchs_own_optimizer():
    model = nn.Linear(3, 2)
    wrapped = [(f"module.{name}", parameter) for name, parameter in model.named_parameters()]
    state = parse_optimizer(torch.optim.SGD(wrapped, lr=0.1).state_dict())
    assert state.groups[0].names == ("weight", "bias")


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"state": {}, "param_groups": []},
        {"state": {}, "param_groups": [{"lr": 0.1}]},
        {"state": {}, "param_groups": [{"params": [[1]]}]},
        {"state": {}, "param_groups": [{"params": ["a", 1]}]},
        {"state": [], "param_groups": [{"params": [0]}]},
        {"state": {}, "param_groups": "params"},
        {"state.a": 1, "other": 2},
    ],
)
def test_what_is_no_optimizer_is_none(saved):
    assert parse_optimizer(saved) is None


def test_a_stored_slot_knows_its_shape_and_reads_what_is_asked_for():
    asked = []

    def read_into(begin, view):
        asked.append(len(view))
        view[:] = torch.arange(6.0).view(torch.uint8).numpy().data[begin : begin + len(view)]

    storage = Storage("0", "float32", 24, read_into)
    stored = {"exp_avg": StoredTensor("float32", (2, 3), (3, 1), 0, storage), "step": 7}
    groups = [{"params": ["w"], "lr": StoredTensor("float32", (), (), 2, storage)}]
    state = parse_optimizer({"state": {"w": stored}, "param_groups": groups})
    assert state.groups[0].settings == {"lr": 2.0}
    assert state.has("exp_avg", "step") and not state.has("exp_avg_sq")
    assert match_parameters(state, {"w": (2, 3)}) == {"w": 0}
    slot = state.slots[0]
    assert (list(slot), len(slot), slot["step"], asked) == (["exp_avg", "step"], 2, 7, [4])
    assert slot["exp_avg"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert asked == [4, 24]


def test_a_step_of_several_numbers_is_left_out():
    storage = Storage("0", "float32", 12, lambda begin, view: None)
    step = StoredTensor("float32", (3,), (1,), 0, storage)
    state = parse_optimizer({"state": {0: {"step": step, "exp_avg": 1}}, "param_groups": [{"params": [0]}]})
    assert dict(state.slots[0]) == {"exp_avg": 1}


def test_moments_in_a_form_that_is_not_read_count_as_not_there():
    """As those of torchao in 8 bits, of which a file tells the class alone."""
    storage = Storage("0", "float32", 24, lambda begin, view: None)
    odd = StoredTensor("float32", (2, 3), (3, 1), 0, storage, peculiarity="an OptimState8bit")
    groups = [{"params": [0], "lr": 0.1, "betas": (0.9, 0.99), "amsgrad": False, "weight_decay": 0.1}]
    state = parse_optimizer({"state": {0: {"step": 2, "exp_avg": odd, "exp_avg_sq": odd}}, "param_groups": groups})
    assert (state.kind, state.steps, state.unread) == ("adam or adamw", 2, ("an OptimState8bit",))
    assert not state.has("exp_avg", "exp_avg_sq", "step") and state.has("step")
    require_sound(state)
    found = find_settings(Given("adamw"), state.settings, Given())
    assert found.learning_rate == 0.1
    assert found.notes == ("optimizer: its state holds an OptimState8bit, which is not read. It counts as empty.",)


def test_updates_that_are_counted_in_the_group_belong_to_its_parameters():
    """As apex and TransformerEngine write them."""
    slots = {number: {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)} for number in range(2)}
    group = {"params": [0, 1], "lr": 0.1, "bias_correction": True, "betas": (0.9, 0.99), "eps": 1e-8, "step": 20}
    state = parse_optimizer({"state": slots, "param_groups": [{**group, "weight_decay": 0.1}]})
    assert state.has("step", "exp_avg", "exp_avg_sq") and state.steps == 20 and state.kind == "adam or adamw"
