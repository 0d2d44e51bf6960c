import pytest

from fromage_cli.checkpoints.storage import json_file
from fromage_cli.errors import InputError


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, {"b": null}]}')
    assert json_file.read_object(tmp_path / "a.json") == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("[]", "not a JSON object"), ("\xff", "not JSON"), ("[" * 100_000, "not JSON")],
)
def test_anything_else_is_refused(tmp_path, text, words):
    (tmp_path / "a.json").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=words):
        json_file.read_object(tmp_path / "a.json")


def test_a_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_file, "LARGEST_JSON", 10)
    (tmp_path / "a.json").write_text('{"a": "long enough"}')
    with pytest.raises(InputError, match="read up to 10"):
        json_file.read_object(tmp_path / "a.json")
