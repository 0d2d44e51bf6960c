import http.server
import json
import threading
from functools import partial
from pathlib import Path

import fsspec
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.runs.gathering import gather_series
from fromage_cli.checkpoints.storage import remote
from fromage_cli.errors import InputError, UnsafeError

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "none": torch.empty(0, 3)}


@pytest.fixture
def local(tmp_path):
    """One of each kind."""
    (tmp_path / "run").mkdir()
    save_file(STATE, tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "trainer_state.json").write_text('{"global_step": 30}')
    optimizer = torch.optim.SGD([torch.nn.Parameter(STATE["a"].clone())], lr=0.5)
    torch.save(optimizer.state_dict(), tmp_path / "run" / "optimizer.pt")
    (tmp_path / "sharded").mkdir()
    save_file({"a": STATE["a"]}, tmp_path / "sharded" / "x-00001-of-00002.safetensors")
    save_file({"b": STATE["b"]}, tmp_path / "sharded" / "x-00002-of-00002.safetensors")
    shards = {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    torch.save({"model": STATE, "step": 7}, tmp_path / "step-7.pt")
    dcp.save({"model": STATE, "step": 9}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return tmp_path


@pytest.fixture
def memory(local):
    """The same behind memory://, and what was read of it."""
    files = fsspec.filesystem("memory")
    files.put(f"{local}/", "/store", recursive=True)
    yield files
    files.rm("/store", recursive=True)


@pytest.fixture
def asked(memory, monkeypatch):
    """The bytes of each range that was asked for."""
    ranges = []
    plain = memory.cat_file

    def cat_file(path, start=None, end=None, **settings):
        ranges.append((path.rpartition("/")[2], end - start))
        return plain(path, start=start, end=end, **settings)

    monkeypatch.setattr(type(memory), "cat_file", lambda self, *args, **settings: cat_file(*args, **settings))
    return ranges


def same(checkpoint, names=tuple(STATE)):
    assert set(checkpoint.entries) == set(names)
    for name in names:
        tensor = checkpoint.tensor(name)
        assert (tensor.dtype, tensor.shape) == (STATE[name].dtype, STATE[name].shape)
        assert torch.equal(tensor, STATE[name])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("path", "form", "step", "names"),
    [
        ("run/model.safetensors", "safetensors", None, tuple(STATE)),
        ("run", "safetensors", 30, tuple(STATE)),
        ("sharded", "safetensors-sharded", None, ("a", "b")),
        ("sharded/model.safetensors.index.json", "safetensors-sharded", None, ("a", "b")),
        ("step-7.pt", "torch", 7, tuple(STATE)),
        ("dcp", "torch-distributed", 9, tuple(STATE)),
    ],
)
def test_every_kind_is_read_from_a_url(memory, path, form, step, names):
    checkpoint = open_checkpoint(f"memory://store/{path}")
    assert (checkpoint.format, checkpoint.step) == (form, step)
    assert checkpoint.place == f"memory://store/{path}"
    assert checkpoint.spans == {}
    same(checkpoint, names)


def test_only_headers_and_the_tensors_that_are_asked_for_are_fetched(memory, asked):
    checkpoint = open_checkpoint("memory://store/run/model.safetensors")
    header = sum(count for _, count in asked)
    asked.clear()
    checkpoint.tensor("b")
    assert asked == [("model.safetensors", 8)]
    assert header < memory.size("/store/run/model.safetensors") + 600
    assert "read by ranges" in checkpoint.notes[-1]


def test_an_optimizer_is_copied_when_it_is_asked_for(memory):
    checkpoint = open_checkpoint("memory://store/run")
    place = checkpoint.path.with_name("optimizer.pt")
    assert not any(place.read_bytes())
    assert checkpoint.optimizer.groups[0].settings["lr"] == 0.5
    named = open_checkpoint("memory://store/step-7.pt", optimizer_state="memory://store/run/optimizer.pt")
    assert named.optimizer.groups[0].settings["lr"] == 0.5


def test_what_declares_something_beside_the_weights_is_copied(memory):
    memory.pipe_file("/store/run/fromage.toml", b'activation = "relu"')
    assert open_checkpoint("memory://store/run").path.with_name("fromage.toml").read_text() == 'activation = "relu"'


def test_urls_stand_among_the_checkpoints_of_a_series(memory, local):
    series = gather_series(["memory://store/run", str(local / "step-7.pt")]).checkpoints
    assert [checkpoint.step for checkpoint in series] == [7, 30]


def test_a_file_url_is_a_path(local):
    checkpoint = open_checkpoint((local / "run").as_uri())
    assert (checkpoint.path, checkpoint.url) == (local / "run", None)


def test_errors_speak_of_the_url(memory):
    memory.pipe_file("/store/page.pt", b"<!DOCTYPE html><html>404</html>")
    memory.pipe_file("/store/cut.safetensors", memory.cat_file("/store/run/model.safetensors")[:-4])
    memory.pipe_file("/store/out/model.safetensors.index.json", b'{"weight_map": {"a": "../run/model.safetensors"}}')
    memory.pipe_file("/store/docs/readme.txt", b"hello")
    for path, error, words in [
        ("page.pt", InputError, "'memory://store/page.pt' is a web page"),
        ("cut.safetensors", InputError, "'memory://store/cut.safetensors' is incomplete"),
        ("out", UnsafeError, "outside its directory"),
        ("nowhere.pt", InputError, "does not exist"),
        ("docs", InputError, "holds no file that looks like weights; found: "),
    ]:
        with pytest.raises(error, match=words):
            open_checkpoint(f"memory://store/{path}")


def test_a_file_that_changes_meanwhile_is_noticed(memory):
    checkpoint = open_checkpoint("memory://store/run/model.safetensors")
    memory.pipe_file("/store/run/model.safetensors", b"short")
    with pytest.raises(InputError, match=r"bytes of .model\.safetensors. were asked for, but 0 came"):
        checkpoint.tensor("a")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Sends parts of files, as Python's own server does not, unless the path says `whole`."""

    sent: dict[str, int]

    def do_GET(self):
        content = Path(self.translate_path(self.path.replace("/whole/", "/"))).read_bytes()
        asked = self.headers.get("Range")
        if asked and "/whole/" not in self.path:
            first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.answer(content)

    def do_HEAD(self):
        place = Path(self.translate_path(self.path.replace("/whole/", "/")))
        if not place.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        if "/whole/" not in self.path:
            self.send_header("Accept-Ranges", "bytes")
        self.answer(place.read_bytes(), body=False)

    def answer(self, content, body=True):
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
            self.sent[self.path] = self.sent.get(self.path, 0) + len(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(local):
    pytest.importorskip("aiohttp")
    handler = type("Handler", (Handler,), {"sent": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(local))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", handler.sent
        served.shutdown()


def test_ranges_over_http(server, local):
    url, sent = server
    big = {**STATE, "big": torch.zeros(100_000)}
    save_file(big, local / "big.safetensors")
    checkpoint = open_checkpoint(f"{url}/big.safetensors")
    assert torch.equal(checkpoint.tensor("a"), STATE["a"])
    assert sum(sent.values()) < 3000


@pytest.mark.parametrize("path", ["whole/run/model.safetensors", "step-7.pt", "whole/step-7.pt"])
def test_files_are_copied_where_ranges_do_not_help(server, path):
    checkpoint = open_checkpoint(f"{server[0]}/{path}?signature=secret")
    same(checkpoint)
    assert "copied" in checkpoint.notes[-1]
    assert "secret" not in checkpoint.place + " ".join(checkpoint.notes)


def test_a_server_without_ranges_is_not_listened_to_for_a_whole_file(server, local):
    url, sent = server
    torch.save({"big": torch.zeros(5_000_000)}, local / "big.pt")
    found = remote.Remote(f"{url}/whole/big.pt")
    assert found.ranged(found.entry) is None
    assert not sent  # it was left before everything was sent


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800", "\x1b[31m"])
def test_names_that_no_file_here_can_have_are_passed_over(memory, name):
    memory.store[f"/store/run/{name}"] = type(memory.store["/store/run/model.safetensors"])(memory, name, b"x")
    same(open_checkpoint("memory://store/run"))
    del memory.store[f"/store/run/{name}"]


def test_a_size_that_no_file_here_can_have(memory, monkeypatch):
    monkeypatch.setattr(remote, "_entry", lambda found: remote.Entry(str(found["name"]), 2**62, False))
    with pytest.raises(InputError, match=r"is empty|does not exist"):
        open_checkpoint("memory://store/step-7.pt")


def test_a_missing_page_is_told(server):
    with pytest.raises(InputError, match="does not exist"):
        open_checkpoint(f"{server[0]}/nothing.pt")
