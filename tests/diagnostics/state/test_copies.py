"""`state` on checkpoints that store things more than once, from the files to what a script reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.finding.test_parallel_ranks import SHARED
from tests.checkpoints.formats.test_zero_replicas import MODEL, RANK, rewrite, save

Run = Callable[..., tuple[int, str, str]]


def told(run: Run, *arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What copies there are, by name, and the findings about them."""
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    envelope = json.loads(out)
    replicas = {one["name"]: one for one in envelope["result"]["replicas"]}
    return replicas, [one for one in envelope["findings"] if one["code"] == "replicas-differ"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_sound_ranks_have_no_finding(run: Run, tmp_path: Path, stage: int) -> None:
    directory = save(tmp_path / "c", stage, 2)
    replicas, findings = told(run, str(directory))
    assert findings == [] and all(one["differ"] == 0 for one in replicas.values())
    page = " ".join(run(str(directory), "--format", "rich")[1].split())
    assert f"Stored copies {8 if stage < 3 else 2} tensors are stored more than once; all copies agree" in page


def test_one_flipped_value_is_named_and_counted(run: Run, tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 2, 2)
    rewrite(directory / MODEL, lambda c: c["module"]["2.weight"].view(-1)[4].mul_(2.0))
    replicas, (finding,) = told(run, str(directory))
    one = replicas["2.weight"]
    assert (one["kind"], one["entries"], one["differ"], one["largest"]) == ("tensor", 21, 1, 0.5)
    assert one["files"][-1] == f"c/{MODEL}"
    assert (finding["severity"], finding["layer"]) == ("warn", "2.weight")
    assert finding["message"] == "copies of 1 tensor differ in 1 entry: 2.weight"
    assert "earlier checkpoint" in finding["hint"]
    assert finding["hint"].endswith(f"Compare c/{RANK.format(0)} with c/{MODEL}.")
    assert run(str(directory), "--fail-on", "warn")[0] == 10
    assert "Warning: 2.weight: copies of 1 tensor" not in run(str(directory), "--format", "rich")[1]
    assert told(run, str(directory), "--exclude", "2.*")[1] == []


def test_a_copy_that_is_damaged_is_a_note(run: Run, tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 2, 2)
    narrow = torch.load(directory / MODEL, weights_only=False)["module"]["2.weight"].view(torch.uint8)
    stored, held = (directory / MODEL).read_bytes(), bytes(narrow.flatten().tolist())
    assert stored.count(held) == 1
    (directory / MODEL).write_bytes(stored.replace(held, held[::-1]))  # not what the archive's checksum says
    code, out, err = run(str(directory), "--json")
    assert (code, json.loads(out)["result"]["replicas"]) == (0, [])
    assert "Copies in several files were not compared" in err and MODEL in err


def test_a_rank_with_settings_of_its_own(run: Run, tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 3, 2)
    rewrite(
        directory / RANK.format(1),
        lambda c: c["optimizer_state_dict"]["optimizer_state_dict"]["param_groups"][0].update(lr=0.02),
    )
    _, (finding,) = told(run, str(directory))
    assert finding["message"] == "1 number of the optimizer's settings differs by rank: lr of group 0"


def test_a_buffer_of_a_rank_is_for_information(run: Run, tmp_path: Path) -> None:
    directory = save(tmp_path / "c", 3, 2)
    rewrite(directory / f"zero_pp_rank_1_{MODEL}", lambda c: c["module"]["mask"].mul_(2.0))
    _, (finding,) = told(run, str(directory))
    assert (finding["severity"], finding["message"]) == ("info", "copies of 1 buffer differ in 3 entries: mask")


def megatron_rank(directory: Path, rank: int, **changes: torch.Tensor) -> Path:
    names = [SHARED[0], "decoder.layers.0.mlp.linear_fc1.weight"]
    weights = {names[0]: torch.ones(3), names[1]: torch.full((3, 3), 1.0 + rank)} | changes
    slots = {n: {"step": 2.0, "exp_avg": w * 0.1, "exp_avg_sq": w * 0.1} for n, w in enumerate(weights.values())}
    state = {"state": slots, "param_groups": [{"params": [0, 1], "lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}]}
    file = directory / f"mp_rank_0{rank}" / "model_optim_rng.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights, "optimizer": state, "iteration": 7}, file)
    return file


def test_tensor_parallel_ranks_that_went_apart(run: Run, tmp_path: Path) -> None:
    first, second = (megatron_rank(tmp_path, rank) for rank in range(2))
    replicas, findings = told(run, str(first))
    assert (set(replicas), findings) == ({SHARED[0]}, [])
    megatron_rank(tmp_path, 1, **{SHARED[0]: torch.tensor([1.0, 1.0, 1.5])})
    _, (finding,) = told(run, str(first))
    assert finding["layer"] == SHARED[0] and "mp_rank_01/model_optim_rng.pt" in finding["hint"]
    second.write_bytes(b"cut off")
    code, _, err = run(str(first))
    assert code == 0 and "Copies in several files were not compared" in err and "Traceback" not in err


def test_copies_of_other_shapes(run: Run, tmp_path: Path) -> None:
    weights = {"w": torch.ones(3, 2)}
    state = {"state": {0: {"step": 2.0, "exp_avg": torch.ones(3, 2), "exp_avg_sq": torch.ones(3, 2)}}}
    state["param_groups"] = [{"params": [0], "lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}]
    save_file({**weights, "b": torch.ones(2)}, tmp_path / "a.safetensors")
    save_file({"w": torch.ones(2, 2)}, tmp_path / "b.safetensors")
    table = {"w": "a.safetensors", "b": "a.safetensors", "c": "b.safetensors"}
    save_file({"w": torch.ones(2, 2), "c": torch.ones(2)}, tmp_path / "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    torch.save(state, tmp_path / "optimizer.pt")
    replicas, (finding,) = told(run, str(tmp_path))
    assert replicas["w"]["differ"] is None and "other shapes" in json.dumps(replicas["w"]["missing"])
    assert finding["message"] == "copies of 1 tensor differ in shape: w"
