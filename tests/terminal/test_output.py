import os
import signal
import stat
from pathlib import Path

import pytest

from fromage_cli.errors import InputError, UsageError
from fromage_cli.terminal import output as output_module
from fromage_cli.terminal import session
from fromage_cli.terminal.options import OutputOptions
from fromage_cli.terminal.output import Destination, prepare_output, write_file


def listing() -> list[str]:
    return [path.name for path in Path().iterdir()]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.json", "json"),
        ("a.JSONL", "jsonl"),
        ("a.tsv", "tsv"),
        ("a.csv", "csv"),
        ("a.md", "md"),
        ("a.txt", "rich"),
        ("a.xml", "junit"),
        ("a.prom", "prom"),
    ],
)
def test_format_by_extension(clean, name, format):
    assert prepare_output(OutputOptions(output=Path(name))) == Destination(format, Path(name))
    assert prepare_output(OutputOptions(output=Path(name), format="csv")).format == "csv"
    assert prepare_output(OutputOptions(output=Path(name), json=True)).format == "json"


@pytest.mark.parametrize("name", ["a.html", "a", "json"])
def test_an_unknown_extension_is_refused(clean, name):
    with pytest.raises(UsageError, match="extension") as error:
        prepare_output(OutputOptions(output=Path(name)))
    assert ".json" in error.value.hint
    assert prepare_output(OutputOptions(output=Path(name), format="md")).format == "md"


def test_a_pipe_gets_tsv_and_a_terminal_a_page(monkeypatch):
    monkeypatch.setattr(output_module.streams, "is_terminal", lambda stream: False)
    assert prepare_output(OutputOptions()).format == "tsv"
    monkeypatch.setattr(output_module.streams, "is_terminal", lambda stream: True)
    assert prepare_output(OutputOptions()).format == "rich"


def test_what_cannot_be_written_is_known_before(clean):
    (clean / "there.json").write_text("old")
    (clean / "dangling.json").symlink_to("nowhere")
    (clean / "d.json").mkdir()
    for name in ("there.json", "dangling.json", "d.json", "no/such/directory.json", "there.json/x.json"):
        with pytest.raises(InputError):
            prepare_output(OutputOptions(output=Path(name)))
    assert prepare_output(OutputOptions(output=Path("there.json"), force=True)).force
    with pytest.raises(InputError, match="regular"):
        prepare_output(OutputOptions(output=Path("/dev/null"), format="json", force=True))


def test_a_directory_closed_to_us(clean, monkeypatch):
    monkeypatch.setattr(output_module.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="permission"):
        prepare_output(OutputOptions(output=Path("a.json")))


def test_written_whole_and_never_over_another(clean):
    write_file(Path("a.json"), "größe\udc80")
    assert Path("a.json").read_bytes() == "größe\\udc80".encode()
    with pytest.raises(InputError, match="exists already"):
        write_file(Path("a.json"), "second")
    write_file(Path("a.json"), b"second", force=True)
    assert Path("a.json").read_text() == "second"
    assert listing() == ["a.json"]


def test_a_file_that_appears_meanwhile_is_kept(clean, monkeypatch):
    monkeypatch.setattr(output_module, "check_writable", lambda path, force: None)
    Path("a.json").write_text("theirs")
    with pytest.raises(InputError, match="exists already"):
        write_file(Path("a.json"), "ours")
    assert Path("a.json").read_text() == "theirs"
    assert listing() == ["a.json"]


def test_without_hard_links_too(clean, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(output_module.os, "link", refuse)
    write_file(Path("a.json"), "ours")
    assert Path("a.json").read_text() == "ours"
    monkeypatch.setattr(output_module, "check_writable", lambda path, force: None)
    with pytest.raises(InputError, match="exists already"):
        write_file(Path("a.json"), "again")
    assert listing() == ["a.json"]


def test_a_full_disk_leaves_nothing(clean, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_module.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_file(Path("a.json"), "ours")
    assert listing() == []


def test_an_interruption_leaves_nothing(clean, monkeypatch):
    monkeypatch.setattr(output_module.os, "fsync", lambda descriptor: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write_file(Path("a.json"), "ours")
    assert listing() == []


def test_force_writes_through_a_link(clean):
    Path("real.json").write_text("old")
    Path("link.json").symlink_to("real.json")
    write_file(Path("link.json"), "new", force=True)
    assert Path("link.json").is_symlink()
    assert Path("real.json").read_text() == "new"


def test_a_long_name(clean):
    name = "x" * 240 + ".json"
    write_file(Path(name), "ours")
    assert listing() == [name]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(clean, mode):
    Path("a.json").write_text("old")
    Path("a.json").chmod(mode)
    write_file(Path("a.json"), "new", force=True)
    assert (Path("a.json").read_text(), stat.S_IMODE(Path("a.json").stat().st_mode)) == ("new", mode)


def test_a_file_is_never_open_to_more_readers_while_it_is_written(clean, monkeypatch):
    Path("a.json").write_text("old")
    Path("a.json").chmod(0o600)
    seen = []
    monkeypatch.setattr(output_module.os, "fchown", lambda descriptor, *_: seen.append(os.fstat(descriptor).st_mode))
    write_file(Path("a.json"), "new", force=True)
    assert [stat.S_IMODE(mode) for mode in seen] == [0o600]


def test_without_hard_links_a_failure_leaves_nothing(clean, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(output_module.os, "link", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match="Input/output error"):
        write_file(Path("a.json"), "ours")
    assert listing() == []


def test_a_name_is_meant_as_it_was_when_the_command_began(clean):
    Path("elsewhere").mkdir()
    with session.scope():
        session.begin(session.Session("x"))
        os.chdir("elsewhere")
        write_file(Path("a.json"), "ours")
        with pytest.raises(InputError, match=r"^a\.json exists already"):
            write_file(Path("a.json"), "ours")
    assert (clean / "a.json").read_text() == "ours"
    assert listing() == []
