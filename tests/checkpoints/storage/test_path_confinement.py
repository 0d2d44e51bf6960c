import pytest

from fromage_cli.checkpoints.storage.path_confinement import confined_path
from fromage_cli.errors import InputError, UnsafeError


def test_a_name_in_the_directory_or_below(tmp_path):
    assert confined_path(tmp_path / "i", "a.bin") == tmp_path / "a.bin"
    assert confined_path(tmp_path / "i", "sub/a.bin") == tmp_path / "sub" / "a.bin"


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "C:\\a", "a\\..\\b", "sub/../../a", "", "a\0b", "\\\\host\\a"])
def test_a_name_that_leaves_it_is_refused(tmp_path, name):
    with pytest.raises(UnsafeError, match="outside its directory"):
        confined_path(tmp_path / "i", name)


def test_half_a_character_is_no_name(tmp_path):
    with pytest.raises(InputError, match="not a file name"):
        confined_path(tmp_path / "i", "a\ud800")


def test_a_link_that_leaves_it_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeError):
        confined_path(tmp_path / "run" / "i", "a")
