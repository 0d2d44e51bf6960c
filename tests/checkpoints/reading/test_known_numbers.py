import os
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading import arrays, chunks
from fromage_cli.checkpoints.reading.known_numbers import recall, remember
from fromage_cli.checkpoints.reading.pairs import Pair, measure_pair
from fromage_cli.checkpoints.reading.reductions import Rows, measure_magnitudes, measure_norms, measure_rows
from fromage_cli.checkpoints.storage.sharing import reads_shared


@pytest.fixture
def series(tmp_path):
    """Two checkpoints of a matrix of several jobs and chunks, and a vector."""
    paths = [tmp_path / f"step-{step}.safetensors" for step in (1, 2)]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        save_file({"w": torch.randn(70, 1000), "b": torch.randn(7)}, path)
    return paths


@pytest.fixture
def reads(monkeypatch):
    """The names of the files of which any tensor's bytes are read."""
    read = []

    def told(place):
        def opened(path):
            read.append(path.name)
            return place(path)

        return opened

    for module in (chunks, arrays):
        monkeypatch.setattr(module, "opened", told(module.opened))
    return read


def measure(paths):
    series = [open_checkpoint(path) for path in paths]
    names = list(series[0].entries)
    rows = measure_rows(series[-1], names)
    pair = measure_pair(*series, "w")
    return (
        [(name, one.norms.tolist(), one.magnitudes) for name, one in rows.items()],
        measure_norms(series, names),
        asdict(pair),
    )


def test_numbers_are_the_same_and_nothing_is_read_again(series, reads):
    alone = measure(series)
    with reads_shared():
        measure_magnitudes(open_checkpoint(series[-1]))
        assert measure(series) == alone
        reads.clear()
        assert measure(series) == alone
    assert reads == []
    assert measure(series) == alone
    assert reads


def test_rows_of_matrices_come_with_the_magnitudes(series, reads):
    with reads_shared():
        magnitudes = measure_magnitudes(open_checkpoint(series[0]))
        reads.clear()
        checkpoint = open_checkpoint(series[0])
        assert measure_norms([checkpoint])[0] == {name: one.norm for name, one in magnitudes.items()}
        found = measure_rows(checkpoint, ["w"])["w"]
    assert reads == [] and found.magnitudes == magnitudes["w"]
    assert found.norms == pytest.approx(checkpoint.tensor("w").norm(dim=1).numpy().astype(np.float64), rel=1e-6)


def test_a_pair_reads_once_what_has_a_known_norm(series, reads):
    first, second = map(open_checkpoint, series)
    measure_pair(first, second, "w")
    alone = len(reads)
    with reads_shared():
        measure_norms([first, second])
        reads.clear()
        measure_pair(first, second, "w")
    assert 2 * len(reads) == alone


def test_a_file_that_was_written_anew_is_read_anew(series, reads):
    with reads_shared():
        measure_norms([open_checkpoint(series[0])])
        save_file({"w": torch.ones(70, 1000), "b": torch.ones(7)}, series[0])
        os.utime(series[0], ns=(1, 1))
        assert measure_norms([open_checkpoint(series[0])])[0]["w"] == pytest.approx(70000**0.5)


def test_kinds_do_not_mix(series):
    checkpoint = open_checkpoint(series[0])
    with reads_shared():
        remember({"w": 1.0}, checkpoint)
        assert recall(float, ["w", "b"], checkpoint) == {"w": 1.0}
        assert recall(Rows, ["w"], checkpoint) == {} == recall(Pair, ["w"], checkpoint, checkpoint)
        with reads_shared(share=False):
            assert recall(float, ["w"], checkpoint) == {}
    assert recall(float, ["w"], checkpoint) == {}


def test_checksums_of_torch_files_are_compared_once(tmp_path, monkeypatch):
    from fromage_cli.checkpoints.formats import zip_container

    compared = []
    crc32 = zip_container.zlib.crc32
    monkeypatch.setattr(zip_container.zlib, "crc32", lambda *given: compared.append(len(given[0])) or crc32(*given))
    torch.save({"w": torch.randn(1000, 100)}, tmp_path / "c.pt")
    with reads_shared():
        measure_norms([open_checkpoint(tmp_path / "c.pt")])
        first = sum(compared)
        measure_magnitudes(open_checkpoint(tmp_path / "c.pt"))
        assert first >= 400_000 and sum(compared) - first < 10_000
    measure_norms([open_checkpoint(tmp_path / "c.pt")])
    assert sum(compared) - first >= 400_000
