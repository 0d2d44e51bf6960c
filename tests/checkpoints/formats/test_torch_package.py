import zipfile

import pytest
import torch
from torch.package import PackageExporter

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def export(path, **pickles):
    with PackageExporter(path) as exporter:
        exporter.extern("torch.**")
        exporter.save_text("notes", "readme.txt", "hello")
        for name, content in pickles.items():
            exporter.save_pickle(name, f"{name}.pkl", content)


def test_a_network_in_a_package(path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    export(path, model=model)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.format, checkpoint.key) == ("torch-package", "model.model")
    assert list(checkpoint.entries) == list(model.state_dict())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in checkpoint.items())


def test_one_of_several_pickles(path):
    shared = torch.arange(6.0)
    export(path, weights={"a": shared, "b": shared}, other={"c": torch.ones(2, dtype=torch.int32)})
    assert open_checkpoint(path).tied == (("a", "b"),)
    assert open_checkpoint(path, "other.other").tensor("c").tolist() == [1, 1]


def test_damage_is_told(path):
    export(path, weights={"a": torch.arange(6.0)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    storage = next(name for name in members if name.endswith(".storage"))
    for changed in ({**members, storage: members[storage][:8]}, {k: v for k, v in members.items() if k != storage}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
        with pytest.raises(InputError):
            open_checkpoint(path)
