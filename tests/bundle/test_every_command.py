"""A bundle answers every command as the live network does, where none of the code that wrote it is at hand."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

RUNS = Path(__file__).parent / "every_command"
ROOT = Path(__file__).parents[2]
ONE = ("inspect", "breakdown", "suggest-lr", "sharpness", "hypergrad")
"""Commands that take the last checkpoint; all others take two."""
OPTIONS = {
    "inspect": (),
    "breakdown": ("--mode", "train"),
    "breakdown-adam": ("--direction", "adam", "--micro-batch", "4", "--mode", "eval"),
    "suggest-lr": ("--probe", "checkpoint", "--probe-budget", "60"),
    "sharpness": (),
    "hypergrad": ("--val-batch", "val.pt", "--lr", "0.001", "--method", "unroll:8"),
    "norms": (),
    "intrinsic-lr": (),
    "distance": (),
    "state": (),
    "check": (),
}
WITHOUT_NETWORK = ("inspect", "state")
UNMATCHED = {"transformers": {"state"}}
"""The trainer's own file does not say which tensors its moments are of; a bundle does."""


def lines(checkpoints: list[str], network: list[str]) -> dict[str, list[str]]:
    """The words of each command."""
    found = {}
    for name, options in OPTIONS.items():
        command = name.removesuffix("-adam")
        given = checkpoints[-1:] if command in ONE else checkpoints
        found[name] = [command, *given, *options]
        if command not in WITHOUT_NETWORK:
            found[name] += [*network, "--dtype", "float64"]
    return found


def start(place: Path, words: dict[str, list[str]], without: bool) -> "subprocess.Popen[str]":
    place.mkdir()
    torch.save(torch.load(place.parent / "val.pt"), place / "val.pt")
    (place / "lines.json").write_text(json.dumps(words), encoding="utf-8")
    called = [sys.executable, "-P", str(RUNS / "answers.py"), str(place), "without" if without else "with"]
    return subprocess.Popen(called, env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}, text=True)


def answer_of(place: Path, checkpoints: list[str]) -> Any:
    """What was written, with each checkpoint called by its number."""
    text = place.read_text(encoding="utf-8")
    for number, checkpoint in enumerate(checkpoints):
        text = text.replace(checkpoint, f"checkpoint {number}")
    return json.loads(text)


def in_order(entries: list[Any]) -> list[Any]:
    """By name where they have one: files keep tensors in orders of their own."""
    if not all(isinstance(each, dict) and "name" in each for each in entries):
        return entries
    return sorted(entries, key=lambda each: (each["name"], each.get("scope", "")))


def differences(bundle: Any, live: Any, path: str = "") -> list[str]:
    """Where two results are not the same to rounding; the words of a reason may name the loss in another way."""
    if isinstance(bundle, dict) and isinstance(live, dict):
        odd = [f"{path}.{name}" for name in sorted(set(bundle) ^ set(live))]
        pairs = [(bundle[name], live[name], f"{path}.{name}") for name in sorted(set(bundle) & set(live) - {"reason"})]
        return odd + [one for *two, name in pairs for one in differences(*two, name)]
    if isinstance(bundle, list) and isinstance(live, list) and len(bundle) == len(live):
        bundle, live = in_order(bundle), in_order(live)
        places = [differences(each, live[at], f"{path}[{at}]") for at, each in enumerate(bundle)]
        return [one for found in places for one in found]
    if isinstance(bundle, (int, float)) and isinstance(live, (int, float)):
        same = bundle == pytest.approx(live, rel=1e-6, abs=1e-9)
        return [] if same else [f"{path}: {bundle} for {live}"]
    return [] if bundle == live else [f"{path}: {bundle} for {live}"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["lightning", "transformers", "sharded", "compiled"])
def test_a_bundle_answers_as_the_network_does(kind: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    run = import_module(f"tests.bundle.every_command.{kind}_run")
    run.train(tmp_path)
    torch.save(run.rows(2), tmp_path / "val.pt")
    code = str(RUNS / f"{kind}_run.py")
    loss = run.loss if isinstance(run.loss, str) else f"{code}:loss"
    network = ["--model", f"{code}:network", "--batch", f"{code}:rows", "--loss", loss]
    files, bundles = (sorted(map(str, (tmp_path / name).glob("*-*"))) for name in ("files", "bundles"))
    assert len(files) == len(bundles) == 2
    ways = {"live": lines(files, network), "bundle": lines(bundles, [])}
    processes = [start(tmp_path / way, words, way == "bundle") for way, words in ways.items()]
    assert [process.wait(300) for process in processes] == [0, 0]
    for name in OPTIONS.keys() - UNMATCHED.get(kind, set()):
        live = answer_of(tmp_path / "live" / f"{name}.json", files)
        bundle = answer_of(tmp_path / "bundle" / f"{name}.json", bundles)
        assert bundle["status"] == live["status"] != "error", (name, bundle.get("error"), live.get("error"))
        results = [bundle["result"], live["result"]]
        if name == "inspect":  # the files differ in format and in the order of their tensors
            names = {each["name"] for each in results[0]["tensors"]}
            results = [[each for each in result["tensors"] if each["name"] in names] for result in results]
        elif name == "check":
            for result in results:
                del result["results"]["inspect"], result["numbers"]
                if kind in UNMATCHED:
                    del result["results"]["state"]
        assert differences(*results) == [], name
        codes = [sorted(each["code"] for each in answer["findings"]) for answer in (bundle, live)]
        assert codes[0] == codes[1] or name == "inspect", name
