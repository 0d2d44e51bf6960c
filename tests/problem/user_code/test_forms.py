import subprocess
import sys

import pytest

from fromage_cli.problem.data.batch_files import READERS, TOKENS
from fromage_cli.problem.user_code.forms import DATA_FILES, parse_specification


def test_the_endings_are_those_that_are_read():
    assert (*READERS, TOKENS) == DATA_FILES


@pytest.mark.parametrize(
    ("text", "module", "name", "is_file"),
    [
        ("train.py:model", "train.py", "model", True),
        ("a/b.py:Net.make", "a/b.py", "Net.make", True),
        ("package.module:model", "package.module", "model", False),
    ],
)
def test_code(text, module, name, is_file):
    found = parse_specification(text)
    assert found is not None and (found.module, found.name, found.is_file) == (module, name, is_file)


@pytest.mark.parametrize("text", ["batch.npz", "mse", "a:b c", "a/b:c", ":f", "f:"])
def test_what_is_no_code(text):
    assert parse_specification(text) is None


def test_what_stands_beside_a_checkpoint_is_read_without_torch():
    code = "import sys; import fromage_cli.problem.user_code.declared; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
