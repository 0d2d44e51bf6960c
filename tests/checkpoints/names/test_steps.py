import pytest

from fromage_cli.checkpoints.names.steps import (
    epoch_in_name,
    first_step,
    step_in_metadata,
    step_in_name,
    step_of_directory,
)


@pytest.mark.parametrize(
    ("stem", "step"),
    [
        ("step-000400", 400),
        ("checkpoint-500", 500),
        ("model_200", 200),
        ("ckpt_7", 7),
        ("epoch=3-step=900", 900),
        ("epoch=3-step=900-v1", 900),
        ("global_step1000", 1000),
        ("iter_0000010", 10),
        ("run-Step_12-best", 12),
        ("000300", 300),
        ("step_0", 0),
        ("model", None),
        ("epoch=3", None),
        ("resnet50", None),
        ("vit-base-patch16-224", None),
        ("step-10k", None),
        ("footstep5", None),
        ("model-00001-of-00002", None),
        ("step-" + "9" * 5000, None),
    ],
)
def test_steps_in_names(stem, step):
    assert step_in_name(stem) == step


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-500", 500), ("global_step10", 10), ("epoch=1-step=9", 9), ("tests_of_steps0", None), ("2024", None)],
)
def test_steps_of_directories(name, step):
    assert step_of_directory(name) == step


@pytest.mark.parametrize(("stem", "epoch"), [("epoch_3", 3), ("ep12", 12), ("net-epoch=04", 4), ("step-3", None)])
def test_epochs_in_names(stem, epoch):
    assert epoch_in_name(stem) == epoch


@pytest.mark.parametrize(
    ("metadata", "step"),
    [
        ({"step": 3}, 3),
        ({"global_step": "12", "step": "3"}, 12),
        ({"epoch": 3}, None),
        ({"step": True}, None),
        ({"step": -1}, None),
        ({"step": "three"}, None),
        ({"iteration": 8, "epoch": 1}, 8),
    ],
)
def test_steps_in_metadata(metadata, step):
    assert step_in_metadata(metadata) == step


def test_the_first_dictionary_with_a_step_tells_it():
    around = [{"epoch": 1, "step": "three"}, {"iteration": [5]}, {"step": [6]}]
    assert first_step(around, lambda value: value[0] if isinstance(value, list) else value) == 5
    assert first_step(around, lambda value: value) is None
