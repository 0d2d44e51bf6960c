"""Several commands on one problem: what is opened once, and what no command leaves behind for the next."""

import pytest
import torch

from fromage_cli.errors import FromageError
from fromage_cli.intake import open_problem
from fromage_cli.intake.sharing import problems_shared
from fromage_cli.problem.networks.layers import freeze
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions

PLACE = "sample_checkpoints/mlp-16/step-000440.safetensors"
BATCH = BatchOptions(batch="sample_checkpoints/mlp-16/batch.safetensors")


def opened(**run):
    return open_problem(PLACE, ModelOptions(), BATCH, RunOptions(**run)).problem


def test_the_network_and_its_base_gradient_are_shared_and_evaluations_are_not():
    alone = opened()
    with problems_shared():
        first = opened()
        assert torch.equal(first.base.gradients["layers.0.weight"], alone.base.gradients["layers.0.weight"])
        assert first.evaluations.gradients == alone.evaluations.gradients
        second = opened(time_limit=60.0)
        assert second.model is first.model and second is not first
        assert second.budget.seconds == 60.0 and first.budget.seconds is None
        assert second.base.loss == first.base.loss and second.evaluations.gradients == 0.0
        with second.base_gradients_released():
            pass
        assert first.base.gradients  # what one command releases the other still holds
        assert opened(dtype="float64").model is not first.model
    assert opened().model is not first.model


def test_chunks_that_fit_are_found_once():
    with problems_shared():
        first = opened()
        first.halve_chunks()
        first.fitting = ("It did not fit.",)
        second = opened()
        assert second.micro_batch == first.micro_batch == first.rows // 2
        assert second.fitting == first.fitting


def test_what_a_command_freezes_moves_again_for_the_next():
    with problems_shared():
        first = opened()
        _ = first.base
        freeze(first.model, ["layers.0.weight"])
        second = opened()
        assert next(iter(second.trainable)).name == "layers.0.weight"
        assert second.model.get_parameter("layers.0.weight").requires_grad
        assert "layers.0.weight" in second.base.gradients


def test_what_cannot_be_opened_is_not_tried_again():
    with problems_shared():
        errors = []
        for _ in range(2):
            with pytest.raises(FromageError) as caught:
                open_problem(PLACE, ModelOptions(), BatchOptions(batch="none.npz"), RunOptions())
            errors.append(caught.value)
        assert errors[0] is errors[1]
