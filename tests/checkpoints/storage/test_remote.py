import shutil
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from fromage_cli.checkpoints.storage import remote
from fromage_cli.checkpoints.storage.remote import Remote, is_url, local_path, printable_url, redacted
from fromage_cli.errors import InputError, ResourceError


def test_what_is_a_url():
    assert all(map(is_url, ["s3://a/b", "hf://org/model", "https://host/x.pt", "file:///x", "gs+x://y"]))
    assert not any(map(is_url, ["a/b", "/a", "C:\\a", "a:b", "://x", "", None, Path("s3://a")]))
    assert local_path("file:///a%20b/c.pt") == Path("/a b/c.pt")
    assert local_path("s3://a/b") is None
    assert local_path("FILE://localhost/x.pt") == Path("/x.pt")
    assert local_path("file://data/x.pt") == Path("data/x.pt")


def test_secrets_are_not_shown():
    assert printable_url("https://me:word@host/x.pt?signature=1#f") == "https://host/x.pt"
    assert printable_url("s3://bucket/key") == "s3://bucket/key"
    assert redacted("404 at url='https://me:word@host/x?sig=1', see s3://b/k and a://u:p@b") == (
        "404 at url='https://host/x', see s3://b/k and a://b"
    )


@pytest.mark.parametrize(
    ("url", "words", "hint"),
    [("s3://b/x.pt", "s3fs", "pip install s3fs"), ("nonsense://x", "no backend", "local disk")],
)
def test_a_missing_backend_names_its_package(monkeypatch, url, words, hint):
    def missing(found):
        if found.startswith("s3"):
            raise ImportError("Install s3fs to access S3")
        raise ValueError("Protocol not known: nonsense")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(InputError, match=words) as caught:
        Remote(url)
    assert hint in caught.value.hint


def test_whatever_a_backend_raises_is_explained(monkeypatch):
    def refuse(*args, **settings):
        raise PermissionError("Forbidden\nlong story")

    files = SimpleNamespace(info=refuse)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **settings: (files, "x"))
    with pytest.raises(InputError, match="cannot be read: PermissionError: Forbidden"):
        Remote("s3://bucket/x")


@pytest.mark.parametrize("fails", ["info", "open", "cat_file"])
def test_no_message_of_a_backend_shows_a_signature(monkeypatch, fails):
    url = "https://host/x.pt?signature=secret"

    def refuse(*args, **settings):
        raise OSError(f"403, message='Forbidden', url='{url}'")

    calls = {"info": lambda path: {"name": url, "size": 100, "type": "file"}, "open": refuse, "cat_file": refuse}
    monkeypatch.setattr(
        fsspec.core, "url_to_fs", lambda url, **settings: (SimpleNamespace(**{**calls, fails: refuse}), url)
    )
    with pytest.raises(InputError, match=r"^https://host/x\.pt cannot be read: OSError: 403") as caught:
        found = Remote(url)
        found.ranged(found.entry) if fails == "open" else found.read(found.entry, 0, 5)
    assert "secret" not in caught.value.message


def test_a_file_beyond_the_limits_is_not_copied(tmp_path, monkeypatch):
    files = fsspec.filesystem("memory")
    files.pipe_file("/big.pt", b"x" * 3000)
    found = Remote("memory://big.pt")
    monkeypatch.setattr(remote, "LARGEST_COPY", 2000)
    with pytest.raises(ResourceError, match="3000 bytes"):
        found.copy(found.entry, tmp_path / "a")
    lying = remote.Entry(found.entry.path, None, False)
    with pytest.raises(ResourceError, match="more than 2000 bytes of"):
        found.copy(lying, tmp_path / "a")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(ResourceError):
        found.copy(found.entry, tmp_path / "a")
