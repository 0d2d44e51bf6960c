import base64
import bz2
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.errors import InputError
from fromage_cli.report import opening
from fromage_cli.report.opening import MARK, holds_answers, packed, read_answers, restored, rounded
from fromage_cli.report.page import html_page


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def page_around(packed: bytes) -> bytes:
    return f'<a {MARK}{base64.b64encode(packed).decode()}">'.encode()


def test_json_lines_arrays_and_pages_are_read(tmp_path: Path, make_breakdown: Callable[..., Any]) -> None:
    one, two = make_breakdown(1), make_breakdown(2)
    report = {"schema": "fromage-diag/1", "command": "report", "result": {"answers": [one, two]}}
    files = {
        "one.json": json.dumps(one),
        "both.json": json.dumps([one, two]),
        "both.jsonl": f"{json.dumps(one)}\n\n{json.dumps(two)}\n",
        "report.json": json.dumps(report),
        "page.html": html_page([one, two]),
    }
    found = {name: read_answers(written(tmp_path / name, text)) for name, text in files.items()}
    assert found.pop("one.json") == [one]
    assert list(found.values()) == [[one, two]] * 4


def test_a_page_that_is_drawn_again_is_the_same(tmp_path: Path, many: list[Any]) -> None:
    first = html_page(many)
    assert html_page(read_answers(written(tmp_path / "page.html", first))) == first


def test_files_that_hold_answers_are_told_from_checkpoints(tmp_path: Path) -> None:
    assert holds_answers(written(tmp_path / "a.json", '{"schema": "fromage-diag/1"}'))
    assert holds_answers(written(tmp_path / "a.HTML", ""))
    for name, text in (("model.safetensors.index.json", '{"weight_map": {}}'), ("a.pt", "fromage-diag/")):
        assert not holds_answers(written(tmp_path / name, text))
    assert not holds_answers(tmp_path) and not holds_answers(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", b"{"),
        ("a.json", b"\xff"),
        ("a.json", b"[" * 100_000),
        ("a.json", b"[1, null, {}]"),
        ("a.json", b'{"schema": "fromage-diag/1", "command": "breakdown", "result": null}'),
        ("a.json", b'{"schema": "fromage-diag/1", "command": "breakdown", "result": {"x": NaN}}'),
        ("a.json", b'{"schema": "fromage-diag/1", "command": "breakdown", "result": {"x": 1e999}}'),
        ("a.json", b'{"schema": "fromage-diag/1", "command": "report", "result": {"answers": 3}}'),
        ("a.html", b"<html></html>"),
        ("a.html", f'<a {MARK}!!">'.encode()),
        ("a.html", page_around(b"no bzip2")),
        ("a.html", page_around(bz2.compress(b"[]")[:-4])),
    ],
)
def test_what_is_no_answer_is_refused(tmp_path: Path, name: str, text: bytes) -> None:
    with pytest.raises(InputError, match="does not hold answers"):
        read_answers(written(tmp_path / name, text))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_shells_are_read(tmp_path: Path, make_breakdown: Callable[..., Any], encoding: str) -> None:
    path = written(tmp_path / "a.json", json.dumps(make_breakdown(1)).encode(encoding))
    assert holds_answers(path) and read_answers(path) == [make_breakdown(1)]


def test_answers_are_known_whatever_the_order_of_their_keys(tmp_path: Path, make: Callable[..., Any]) -> None:
    told = make("state", {"a": ["x" * 100_000]})
    assert holds_answers(written(tmp_path / "a.json", json.dumps(told, sort_keys=True)))


def test_lines_end_where_json_lines_end(tmp_path: Path, make: Callable[..., Any]) -> None:
    told = [make("state", {"a": "one\u2028two\x85three"}), make("state", {})]
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in told)
    assert read_answers(written(tmp_path / "a.jsonl", text)) == told


def test_an_error_is_an_answer(tmp_path: Path, make: Callable[..., Any]) -> None:
    told = {
        **make("state", {}),
        "result": None,
        "status": "error",
        "error": {"code": "input", "message": "It is gone."},
    }
    found = read_answers(written(tmp_path / "a.json", json.dumps(told)))
    assert "No answer: state could not run. It is gone." in html_page(found)


def test_what_is_nested_without_end_is_refused(tmp_path: Path, make: Callable[..., Any]) -> None:
    text = json.dumps(make("state", {"a": 0})).replace('"a": 0', '"a": ' + "[" * 200 + "]" * 200)
    with pytest.raises(InputError, match="does not hold answers"):
        read_answers(written(tmp_path / "a.json", text))


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]) -> None:
    monkeypatch.setattr(opening, "LARGEST", 10_000)
    bomb = page_around(bz2.compress(b" " * 10_000_000))
    with pytest.raises(InputError, match="does not hold"):
        read_answers(written(tmp_path / "a.html", bomb))
    with pytest.raises(InputError, match="larger than"):
        read_answers(written(tmp_path / "a.json", b" " * 20_000))
    monkeypatch.setattr(opening, "MOST_OBJECTS", 50)
    with pytest.raises(InputError, match="more than 50 objects"):
        read_answers(written(tmp_path / "a.json", "[" * 60))
    monkeypatch.setattr(opening, "MOST_OBJECTS", 10_000)
    monkeypatch.setattr(opening, "MOST", 2)
    with pytest.raises(InputError, match="a page takes 2"):
        read_answers(written(tmp_path / "b.json", json.dumps([make("state", {})] * 3)))


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_rounding_and_packing_lose_nothing_else(told: Any) -> None:
    short = rounded(told)
    assert rounded(short) == short
    text = bz2.decompress(base64.b64decode(packed([short]))).decode()
    assert json.loads(text) == [short]


def test_running_maxima_are_made_again() -> None:
    curve = {"breakdown": [0.1, 0.5, 0.2], "path_breakdown": [0.1, 0.5, 0.5]}
    other = {"breakdown": [0.1, 0.5, 0.2], "path_breakdown": [0.1, 0.2, 0.5]}
    text = bz2.decompress(base64.b64decode(packed([curve, other]))).decode()
    assert json.loads(text) == [{"breakdown": [0.1, 0.5, 0.2]}, other]
    assert restored(json.loads(text)) == [curve, other]
