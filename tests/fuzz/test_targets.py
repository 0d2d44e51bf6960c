import importlib.util
import time
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def targets():
    description = importlib.util.spec_from_file_location("fuzz_targets", HERE / "targets.py")
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


@pytest.mark.parametrize("corpus", sorted((HERE / "corpus").glob("*.zip")), ids=lambda path: path.stem)
def test_what_fuzzing_found_is_read_or_refused(targets, tmp_path, corpus):
    name, wrapped, seeds = targets.TARGETS[corpus.stem]
    targets.neighbours(tmp_path)
    read = targets.reader(tmp_path / name, wrapped)
    with zipfile.ZipFile(corpus) as kept:
        inputs = [kept.read(member) for member in kept.namelist()]
    for content in [*seeds(), *inputs]:
        began = time.thread_time()
        read(content)
        assert time.thread_time() - began < 1


def test_every_target_has_its_corpus(targets):
    assert {path.stem for path in (HERE / "corpus").glob("*.zip")} == set(targets.TARGETS)
