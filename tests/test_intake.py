import pytest

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import UsageError
from fromage_cli.intake import checkpoint_record, torch_device


def test_the_envelope_names_the_file_that_was_read():
    run = open_checkpoint("sample_checkpoints/mlp-16")
    record = checkpoint_record(run)
    assert record.path == str(run.weights)
    assert record.step == run.step
    assert f"{run.step:06d}" in record.path


def test_a_device_that_is_not_there_is_refused():
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="CUDA devices here"):
        torch_device("cuda:99")
