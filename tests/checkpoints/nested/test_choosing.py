import argparse
from pathlib import Path

import pytest
import torch

from fromage_cli.checkpoints import match_parameters, open_checkpoint
from fromage_cli.checkpoints.opening import open_optimizer
from fromage_cli.errors import InputError, UsageError

SMALL = {"w": torch.ones(2)}
LARGE = {"w": torch.zeros(50)}


def trained():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model.state_dict(), optimizer.state_dict()


def opened(tmp_path, content, key=None, ema=None):
    torch.save(content, tmp_path / "x.pt")
    return open_checkpoint(tmp_path / "x.pt", key, ema=ema)


def test_the_optimizer_is_never_taken(tmp_path):
    weights, optimizer = trained()
    checkpoint = opened(tmp_path, {"optimizer": optimizer, "anything": weights, "epoch": 3, "global_step": 40})
    assert (checkpoint.key, checkpoint.step, checkpoint.notes) == ("anything", 40, ())
    assert checkpoint.metadata == {"epoch": "3", "global_step": "40"}
    with pytest.raises(InputError, match="holds no weights, only other tensors: 'optimizer'"):
        opened(tmp_path, {"optimizer": optimizer})


def test_an_optimizer_alone_is_named_and_can_be_opened(tmp_path):
    _, optimizer = trained()
    with pytest.raises(InputError, match="holds an optimizer's state and no weights") as raised:
        opened(tmp_path, optimizer)
    assert "--key" not in raised.value.hint
    alone = open_optimizer(tmp_path / "x.pt")
    assert (alone.entries, alone.step, alone.saved_optimizer.kind) == ({}, 1, "adam")
    torch.save(SMALL, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="holds no optimizer state"):
        open_optimizer(tmp_path / "weights.pt")


def test_an_optimizer_under_another_name_is_known_by_its_structure(tmp_path):
    weights, optimizer = trained()
    assert opened(tmp_path, {"o": optimizer, "w": {"b": weights["bias"]}}).key == "w"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"state_dict": SMALL, "other": LARGE}, "state_dict"),
        ({"model": SMALL, "model_state_dict": SMALL}, "model_state_dict"),
        ({"model_state_dict": SMALL, "ema_state_dict": LARGE}, "model_state_dict"),
        ({"state": {"model": SMALL, "ema": LARGE}}, "state.model"),
        ({"params_ema": LARGE, "params": SMALL}, "params"),
        ({"generator": SMALL, "discriminator": LARGE}, "generator"),
        ({"a": SMALL, "b": LARGE}, "b"),
        ({"ema": {"model": LARGE}, "net": SMALL}, "net"),
        ({"state_dict": SMALL, "mean": torch.ones(3)}, "state_dict"),
        ([LARGE, {"lr": 0.1}], "0"),
    ],
)
def test_the_most_likely_dictionary_is_taken(tmp_path, content, key):
    assert opened(tmp_path, content).key == key


def test_a_choice_is_told_with_its_alternatives(tmp_path):
    note = opened(tmp_path, {"model": SMALL, "ema": LARGE}).notes[0]
    assert note == (
        "Took 'model' of 2 dictionaries of tensors, not 'ema'; --ema takes the averaged weights, --key another "
        "dictionary."
    )
    note = opened(tmp_path, {"a": SMALL, "b": LARGE}).notes[0]
    assert note == "Took 'b', the largest of 2 dictionaries of tensors, not 'a'; --key takes another one."


@pytest.mark.parametrize(
    ("ema", "key", "values"),
    [(None, "state_dict", SMALL), (True, "state_dict_ema", LARGE), (False, "state_dict", SMALL)],
)
def test_averaged_weights_are_taken_where_they_are_asked_for(tmp_path, ema, key, values):
    timm = {"epoch": 3, "arch": "vit", "state_dict": SMALL, "state_dict_ema": LARGE, "metric": 0.5}
    checkpoint = opened(tmp_path, timm, ema=ema)
    assert (checkpoint.key, checkpoint.tensor("w").tolist()) == (key, values["w"].tolist())
    assert bool(checkpoint.notes) == (ema is None)


@pytest.mark.parametrize(
    ("content", "ema", "words"),
    [
        ({"model": SMALL}, True, "has no averaged weights, which --ema asks for; it has 'model'"),
        ({"model_ema": SMALL}, False, "has no plain weights, which --no-ema asks for; it has 'model_ema'"),
    ],
)
def test_a_copy_that_is_not_there_is_refused(tmp_path, content, ema, words):
    with pytest.raises(UsageError, match=words):
        opened(tmp_path, content, ema=ema)


def test_a_key_picks_another_even_of_the_optimizer(tmp_path):
    weights, optimizer = trained()
    content = {"state": {"model": weights, "ema": LARGE}, "optimizer": optimizer}
    assert opened(tmp_path, content, "state.ema").parameters == 50
    assert "exp_avg" in opened(tmp_path, content, "optimizer.state.0").entries
    assert "model.weight" in opened(tmp_path, content, "state").entries


def test_a_wrong_key_lists_what_there_is(tmp_path):
    with pytest.raises(UsageError, match="--key 'modle'") as caught:
        opened(tmp_path, {"model": SMALL, "ema": LARGE}, "modle")
    assert "'model'" in caught.value.hint
    assert {"model", "ema"} <= set(caught.value.details)


def test_nested_submodules_become_dotted_names(tmp_path):
    tree = {"params": {"dense": {"kernel": torch.ones(2), "bias": torch.ones(1)}, "head": {"kernel": torch.ones(3)}}}
    checkpoint = opened(tmp_path, {**tree, "step": torch.tensor(7)})
    assert (checkpoint.key, list(checkpoint.entries)) == ("params", ["dense.kernel", "dense.bias", "head.kernel"])
    assert checkpoint.step == 7
    assert checkpoint.notes == ()


def test_a_flat_state_dictionary_has_no_key(tmp_path):
    assert opened(tmp_path, SMALL).key is None
    assert opened(tmp_path, {"w": torch.ones(9), "_extra_state": {"amax": torch.ones(1)}}).key is None
    assert opened(tmp_path, {"w": torch.ones(9), "sub": SMALL}, ".").parameters == 9


@pytest.mark.parametrize(("content", "words"), [({}, "it is empty"), ({"a": {"b": 1}}, "it holds 'a'")])
def test_no_tensors_at_all(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        opened(tmp_path, content)


def test_shared_and_endless_dictionaries_end(tmp_path):
    node = {"w": torch.ones(1)}
    for _ in range(60):
        node = {"a": node, "b": node}
    with pytest.raises(InputError):
        opened(tmp_path, node)
    endless: dict[str, object] = {"model": SMALL}
    endless["self"] = endless
    assert opened(tmp_path, endless).key == "model"


class EarlyStopping:
    def __init__(self):
        self.best = torch.tensor(0.5)


def test_lightning_with_settings_and_callbacks_of_unknown_classes(tmp_path):
    weights, optimizer = trained()
    content = {
        "epoch": 1,
        "global_step": 5,
        "pytorch-lightning_version": "2.5",
        "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 2}}}},
        "callbacks": {EarlyStopping: {"best": torch.tensor(0.5)}, "Checkpoint{'every': 1}": {"best": EarlyStopping()}},
        "optimizer_states": [optimizer],
        "lr_schedulers": [{"last_epoch": 3}],
        "hparams_name": "hparams",
        "hyper_parameters": argparse.Namespace(rate=0.1, stopping=EarlyStopping(), path=Path("data")),
    }
    checkpoint = opened(tmp_path, content)
    assert (checkpoint.key, checkpoint.step) == ("state_dict", 5)
    assert checkpoint.metadata["pytorch-lightning_version"] == "2.5"
    assert torch.equal(checkpoint.tensor("model.weight"), weights["weight"])
    assert match_parameters(checkpoint.optimizer, {"model.weight": (2, 3), "model.bias": (2,)})["model.bias"] == 1
    assert checkpoint.optimizer.groups[0].settings["lr"] == 1e-3
    assert any("EarlyStopping" in note for note in checkpoint.notes)
