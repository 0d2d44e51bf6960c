"""The loop, look by look, with a diagnosis that only notes what it was asked."""

import errno
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.errors import InputError
from fromage_cli.watching.diagnosis import Diagnosis
from fromage_cli.watching.following import Ending, Follower
from fromage_cli.watching.log import WatchLog

from .conftest import Save, Watched, envelope

Watch = Callable[[], Watched]


def test_what_is_at_rest_for_two_looks_is_diagnosed_once(save: Save, watch: Watch) -> None:
    watched = watch()
    save("step-1.pt")
    assert watched.looks(1) == []
    assert watched.looks(1) == ["step-1.pt"]
    assert watched.looks(5) == []
    save("step-2.pt", 2.0)
    assert watched.looks() == ["step-2.pt"]


def test_what_grows_is_left_until_it_rests(save: Save, watch: Watch) -> None:
    whole = save("step-1.pt").read_bytes()
    watched = watch()
    for size in (100, 500, len(whole)):
        (watched.follower.directory / "step-1.pt").write_bytes(whole[:size])
        assert watched.looks(1) == []
    assert watched.looks(1) == ["step-1.pt"] and watched.said == []


def test_an_incomplete_one_is_told_once_and_looked_into_again_when_it_changes(save: Save, watch: Watch) -> None:
    path = save("step-1.safetensors")
    whole, watched = path.read_bytes(), watch()
    path.write_bytes(whole[:-5])
    assert watched.looks(5) == []
    assert len(watched.said) == 1 and "incomplete" in watched.said[0]
    path.write_bytes(whole)
    assert watched.looks() == ["step-1.safetensors"]


def test_a_new_watch_does_nothing_again_and_reads_no_file_again(
    save: Save, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("step-1.pt", 1.0), save("step-2.pt", 2.0)
    assert watch().looks() == ["step-1.pt", "step-2.pt"]
    again = watch()
    monkeypatch.setattr("fromage_cli.watching.following.content_of", lambda *_: pytest.fail("it was read"))
    assert again.looks(3) == []


def test_the_same_content_under_another_name_is_not_diagnosed_again(save: Save, watch: Watch) -> None:
    first, watched = save("step-1.pt"), watch()
    watched.looks()
    shutil.copy(first, first.with_name("last.pt"))
    first.rename(first.with_name("step-7.pt"))
    assert watched.looks(4) == []


def test_a_touched_file_is_read_but_not_diagnosed_again(save: Save, watch: Watch) -> None:
    path, watched = save("step-1.pt"), watch()
    watched.looks()
    os.utime(path, (1, 1))  # also a clock that jumps back changes nothing
    assert watched.looks(3) == []


def test_one_that_is_overwritten_in_place_is_diagnosed_each_time(save: Save, watch: Watch) -> None:
    path, watched = save("last.pt", 1.0), watch()
    assert watched.looks() == ["last.pt"]
    other = save("other/last.pt", 2.0).read_bytes()
    path.write_bytes(other)
    assert watched.looks() == ["last.pt"]
    contents = [record["content"] for record in watched.told]
    assert len(set(contents)) == 2


def test_a_verdict_on_a_mixture_is_thrown_away(save: Save, watch: Watch) -> None:
    path, other = save("last.pt", 1.0), save("other/last.pt", 2.0).read_bytes()
    watched = watch()
    times = path.stat()

    def overwrite() -> None:
        with path.open("r+b") as file:  # the same size, and the old time put back
            file.write(other)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    watched.meanwhile.append(overwrite)
    assert watched.looks(2) == ["last.pt"] and watched.told == []
    assert "changed while it was read" in watched.said[0]
    assert watched.looks(2) == ["last.pt"]
    assert [record["path"] for record in watched.told] == [str(path)]
    assert watched.looks(3) == []


def test_an_earlier_one_that_vanishes_meanwhile_makes_it_begin_again(save: Save, watch: Watch) -> None:
    first, watched = save("step-1.pt", 1.0), watch()
    watched.looks()
    save("step-2.pt", 2.0)
    watched.meanwhile.append(first.unlink)
    watched.looks(2)
    watched.looks(2)
    assert watched.asked == [["step-1.pt"], ["step-1.pt", "step-2.pt"], ["step-2.pt"]]
    assert [record["step"] for record in watched.told] == [1, 2]


def test_one_that_vanishes_while_it_is_read_is_nothing_to_tell(save: Save, watch: Watch) -> None:
    path, watched = save("step-1.pt"), watch()
    watched.meanwhile.append(path.unlink)
    watched.looks(4)
    assert (watched.told, watched.said) == ([], [])


def test_shards_that_come_one_by_one_are_told_once(watch: Watch, run_directory: Path) -> None:
    home, names = run_directory / "step-5", [f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)]
    home.mkdir()
    (home / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"w{part}": name for part, name in enumerate(names)}})
    )
    watched = watch()
    for part, name in enumerate(names):
        assert watched.looks(3) == []
        save_file({f"w{part}": torch.ones(3)}, home / name)
    assert watched.looks(3) == ["step-5"]
    assert len(watched.said) == 1 and "incomplete" in watched.said[0]


def test_what_cannot_be_started_is_tried_again(save: Save, watch: Watch) -> None:
    def fails() -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    save("step-1.pt")
    watched = watch()
    watched.meanwhile += [fails, fails]
    assert watched.looks(5) == ["step-1.pt"] * 3
    assert len(watched.told) == 1
    assert [text.split(":")[0] for text in watched.said] == ["note"] * 2 and "no more processes" in watched.said[0]


def test_a_directory_that_fails_at_one_look_is_nothing_to_tell(
    save: Save, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(directory: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    save("step-1.pt")
    watched = watch()
    for looks, told in ((1, 0), (3, 1)):
        with monkeypatch.context() as broken:
            broken.setattr("fromage_cli.watching.following.arrivals", stale)
            watched.looks(looks)
        assert len(watched.said) == told
        watched.looks(2)
    assert len(watched.told) == 1 and "works again" in watched.said[1]


def test_the_first_and_the_latest_go_with_a_new_one(save: Save, watch: Watch) -> None:
    for step in range(1, 8):
        save(f"step-{step}.pt", float(step))
    save("last.pt", 100.0)
    watched = watch()
    watched.looks()
    steps = [[int(name[5:-3]) for name in asked] for asked in watched.asked[:-1]]
    assert steps == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 3, 4, 5, 6], [1, 4, 5, 6, 7]]
    assert watched.asked[-1] == ["last.pt"]


def test_a_record_has_what_was_watched_and_what_check_printed(save: Save, watch: Watch) -> None:
    path, watched = save("step-7.pt"), watch()
    watched.answer = envelope("stop", step=8)
    watched.looks()
    (record,) = watched.told
    assert list(record)[:6] == ["watched_at", "path", "step", "content", "state", "exit_code"]
    assert (record["path"], record["step"], record["result"]["verdict"]) == (str(path), 8, "stop")
    assert record["watched_at"].endswith("+00:00") and len(record["content"]) == 64


def test_a_directory_that_vanishes_is_told_and_waited_for(save: Save, watch: Watch, run_directory: Path) -> None:
    save("step-1.pt", 1.0)
    watched = watch()
    watched.looks()
    shutil.move(run_directory, f"{run_directory}-away")
    assert watched.looks(5) == []
    assert len(watched.said) == 1 and "waiting" in watched.said[0] and "does not exist" in watched.said[0]
    shutil.move(f"{run_directory}-away", run_directory)
    save("step-2.pt", 2.0)
    assert watched.looks(3) == ["step-2.pt"]
    assert "again" in watched.said[1]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_loses_nothing(save: Save, watch: Watch, monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    watched = watch()
    save("step-1.pt", 1.0), save("step-2.pt", 2.0)

    def fail(file: int, line: memoryview) -> None:
        raise OSError(reason, os.strerror(reason))

    with monkeypatch.context() as full:
        full.setattr("fromage_cli.watching.log._write", fail)
        assert watched.looks(5) == ["step-1.pt"]
        assert watched.told == [] and len(watched.said) == 1 and "cannot be written" in watched.said[0]
    assert watched.looks(3) == ["step-2.pt"]
    assert [record["step"] for record in watched.told] == [1, 2]
    assert len((watched.follower.log.path).read_text().splitlines()) == 2


def test_it_does_not_end_with_a_diagnosis_that_is_nowhere(
    save: Save, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch()
    save("step-1.pt")
    monkeypatch.setattr(watched.follower.log, "append", lambda record: OSError(errno.ENOSPC, "full"))
    with pytest.raises(InputError, match="could not be written"):
        watched.follower.follow(Ending(once=True), 1.0, pause=lambda seconds: None)


class Clock:
    """Time that passes only while the loop waits."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.now, self.happens = 0.0, list(happens)

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.happens:
            self.happens.pop(0)()


def test_once_ends_after_two_looks(save: Save, watch: Watch) -> None:
    save("step-1.pt")
    watched, clock = watch(), Clock()
    assert "diagnosed" in watched.follower.follow(Ending(once=True), 3.0, clock.pause, clock)
    assert (clock.now, len(watched.told)) == (3.0, 1)


def test_it_ends_after_a_step(save: Save, watch: Watch) -> None:
    steps = [lambda step=step: save(f"step-{step}.pt", float(step)) for step in (10, 20, 30)]
    watched, clock = watch(), Clock(*(one for step in steps for one in (step, lambda: None)))
    assert "step 15" in watched.follower.follow(Ending(step=15), 1.0, clock.pause, clock)
    assert [record["step"] for record in watched.told] == [10, 20]
    assert "step 15" in watch().follower.follow(Ending(step=15), 1.0, clock.pause, clock)


def test_it_ends_when_nothing_changes_and_what_grows_is_a_change(save: Save, watch: Watch) -> None:
    path = save("step-1.pt")
    grows = [lambda: path.open("ab").write(b"x")] * 6
    watched, clock = watch(), Clock(*grows)
    assert "5 s" in watched.follower.follow(Ending(idle=5.0), 1.0, clock.pause, clock)
    assert clock.now == 6.0 + 1.0 + 5.0  # it grows, it is diagnosed, nothing changes


def test_a_long_diagnosis_counts_as_a_change(save: Save, watch: Watch) -> None:
    save("step-1.pt", 1.0)
    watched, clock = watch(), Clock()

    def long() -> None:
        clock.now += 100.0
        save("step-2.pt", 2.0)

    watched.meanwhile.append(long)
    watched.follower.follow(Ending(idle=5.0), 1.0, clock.pause, clock)
    assert [record["step"] for record in watched.told] == [1, 2]


def child(directory: Path, log: Path) -> None:
    """A whole watch in a forked process, whose diagnosis takes no time."""

    def diagnose(earlier: Sequence[Path], path: Path) -> Diagnosis:
        return Diagnosis(0, envelope(padding="x" * 100_000))

    code = 1
    try:
        kept = WatchLog(log, directory, lambda text: None)
        Follower(directory, kept, diagnose, lambda record: None, lambda text: None).follow(Ending(), 0.001)
    finally:
        os._exit(code)


def test_fifty_kills_at_random_moments_lose_nothing_and_do_nothing_twice(
    save: Save, run_directory: Path, tmp_path: Path, watch: Watch
) -> None:
    drawn, log = random.Random(0), tmp_path / "log.jsonl"
    written = 0
    for _ in range(50):
        for _ in range(drawn.randrange(4)):
            written += 1
            save(f"step-{written}.safetensors", float(written))
        process = os.fork()
        if process == 0:
            child(run_directory, log)
        time.sleep(drawn.uniform(0.0, 0.06))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    known_before = log.read_bytes().count(b"\n")
    watched = watch()
    watched.looks(2)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(record["step"] for record in records) == list(range(1, written + 1))
    assert known_before > 0 and written > 50
