"""The command as a user and a script meet it."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "sample_checkpoints"
WITHOUT_TORCH = """
import sys
from fromage_cli.cli import main
for options in sys.argv[2:]:
    try:
        main(["inspect", sys.argv[1], *options.split()])
    except SystemExit as exit:
        assert not exit.code, (options, exit.code)
    assert "torch" not in sys.modules, options
    if "--headers" in options:
        assert "numpy" not in sys.modules, options
"""


def fresh(*arguments, cwd):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_an_envelope(run):
    code, out, err = run(SAMPLES / "char-gpt", "--json")
    envelope = json.loads(out)
    result = envelope["result"]
    assert (code, envelope["command"], envelope["status"], envelope["problem"]) == (0, "inspect", "ok", None)
    assert envelope["checkpoints"][0]["format"] == "torch"
    assert (result["step"], result["optimizer"]["kind"], result["optimizer"]["step"]) == (860, "adamw", 860)
    assert [group["weight_decay"] for group in result["optimizer"]["groups"]] == [0.1, 0.0]
    assert result["optimizer"]["groups"][0]["betas"] == [0.9, 0.95]
    assert result["tied"] == [["token.weight", "output.weight"]]
    keys = {"name", "dtype", "shape", "norm", "rms", "max_abs", "nonfinite", "zeros"}
    assert all(keys <= set(tensor) for tensor in result["tensors"])
    assert "highest complete step" in err


def test_an_optimizer_in_a_file_of_its_own_is_an_answer(run, tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    code, out, _ = run(tmp_path / "optimizer.pt", "--format", "rich")
    assert code == 0 and "This file holds an optimizer's state alone." in out and "1 update, rate 0.01" in out
    assert "2 tensors  step, exp_avg, exp_avg_sq" in out and "inspect CKPT --optimizer-state" in " ".join(out.split())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    code, out, _ = run(tmp_path / "optimizer.pt", "--format", "rich")
    assert "shows the weights that it belongs to." in " ".join(out.split())
    result = json.loads(run(tmp_path / "optimizer.pt", "--json")[1])["result"]
    assert (result["tensors"], result["optimizer"]["step"], result["totals"]["nonfinite"]) == ([], 1, None)


def test_safetensors_need_no_torch(tmp_path):
    save_file({"w": torch.ones(2, 3), "h": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "c.safetensors")
    done = fresh("c.safetensors", "--headers", "", "--json", "--spectrum", "--spectrum --estimate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"command": "inspect"') == 1


def test_headers_of_a_hundred_gigabytes_take_no_time(tmp_path):
    names = [f"model-{index:05}-of-00020.safetensors" for index in range(1, 21)]
    count, size = 50, 25_000_000  # 20 shards of 50 float32 tensors of 100 MB, which sparse files need not store
    for shard in names:
        table = {
            f"{shard}.{index}": {
                "dtype": "F32",
                "shape": [size],
                "data_offsets": [4 * size * index, 4 * size * (index + 1)],
            }
            for index in range(count)
        }
        header = json.dumps(table).encode()
        with (tmp_path / shard).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 4 * size * count)
    weight_map = {f"{shard}.{index}": shard for shard in names for index in range(count)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    start = time.perf_counter()
    done = fresh(".", "--headers --json", cwd=tmp_path)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["totals"]["bytes"] == 100 * 10**9
    assert seconds < 10  # two on a machine that does nothing else


@pytest.mark.parametrize(
    ("option", "damage"),
    [
        *((option, damage) for option in ("--all", "--headers") for damage in ("missing", "empty", "cut", "within")),
        ("--spectrum", "cut"),
        ("--safety", "missing"),
        ("--safety", "empty"),
    ],
)
def test_what_can_be_read_is_answered_beside_what_cannot(run, tmp_path, option, damage):
    for name in "abc":
        save_file({"w": torch.full((2000,), 2.0)}, tmp_path / f"{name}.safetensors")
    data = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").unlink()
    if damage != "missing":
        left = {"empty": b"", "cut": data[:3000], "within": data[:8] + b"?" + data[9:]}[damage]
        (tmp_path / "b.safetensors").write_bytes(left)
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    code, out, _ = run(*paths, option, "--json")
    first, damaged, last = json.loads(out)
    assert (code, first["status"], damaged["status"], last["status"]) == (3, "ok", "error", "ok")
    assert damaged["error"]["code"] == "input" and "b.safetensors" in damaged["error"]["message"]
    assert first["result"] == last["result"] and damaged["result"] is None
    code, out, err = run(*paths, option)
    assert (code, err.count("error: ")) == (3, 1)
    assert ("a.safetensors" in out and "c.safetensors" in out) or option == "--safety"
    code, out, _ = run(paths[0], paths[1], option, "-o", tmp_path / "one.json")
    assert (code, out, len(json.loads((tmp_path / "one.json").read_text()))) == (3, "", 2)
    code, _, err = run(paths[1], paths[0], paths[1], option, "--format", "rich")
    assert (code, err.count("error: ")) == (3, 2)


def test_several_files_have_an_answer_each(run):
    paths = (SAMPLES / "mlp-2/step-000000.safetensors", SAMPLES / "mlp-2/step-000440.safetensors")
    first, second = json.loads(run(*paths, "--json")[1])
    assert (first["result"]["step"], second["result"]["step"]) == (0, 440)
    rows = list(csv.DictReader(io.StringIO(run(*paths, "--format", "csv")[1])))
    assert [row["checkpoint"] for row in rows[::4]] == [str(path) for path in paths]
    assert run(*paths, "--format", "rich")[1].count("Nothing wrong found.") == 2


def test_tables(run):
    _, out, _ = run(SAMPLES / "char-gpt", "--format", "csv", "--table", "groups")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["parameters"], row["learning_rate"]) for row in rows] == [("10", "0.003"), ("18", "0.003")]
    assert "float32" in run(SAMPLES / "mlp-2", "--format", "tsv", "--table", "dtypes")[1]
    code, _, err = run(SAMPLES / "mlp-2", "--table", "layers")
    assert code == 2 and "tensors, groups, dtypes" in err
    assert run(SAMPLES / "mlp-2", "--format", "tsv", "--table", "groups")[:2] == (0, "\n")


def test_the_spectrum(run):
    tensors = json.loads(run(SAMPLES / "mlp-2", "--spectrum", "--json")[1])["result"]["tensors"]
    by_name = {tensor["name"]: tensor for tensor in tensors}
    assert by_name["layers.1.weight"]["condition_number"] > 1
    assert by_name["layers.1.bias"]["condition_number"] is None


def test_logs_of_trainers_beside_it(run, tmp_path):
    folder = tmp_path / "checkpoint-20"
    folder.mkdir()
    save_file({"w": torch.ones(2, 2)}, folder / "model.safetensors")
    history = [{"step": 10, "loss": 2.0, "learning_rate": 0.1}, {"step": 20, "loss": float("nan")}]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 20, "log_history": history}))
    (tmp_path / "metrics.csv").write_text("step,train_loss\n19,0.5\n29,0.25\n")
    envelope = json.loads(run(folder, "--json")[1])
    first, second = envelope["result"]["logs"]
    assert first == {
        "file": "trainer_state.json",
        "records": 2,
        "step": 20,
        "loss": None,
        "learning_rate": 0.1,
        "not_finite": 1,
    }
    assert (second["file"], second["step"], second["loss"]) == ("../metrics.csv", 19, 0.5)
    assert [finding["code"] for finding in envelope["findings"]] == ["log-not-finite"]
    assert "step 19  loss 0.5, ../metrics.csv (2 records)" in run(folder, "--format", "rich")[1]
    assert run(folder, "--format", "tsv", "--table", "logs")[1].count("\n") == 3
    assert json.loads(run(folder, "--headers", "--json")[1])["result"]["logs"] == []


def test_estimates(run):
    def estimate(*arguments):
        (found,) = [json.loads(run(SAMPLES / "mlp-2", "--estimate", "--json", *arguments)[1])["result"]["estimate"]]
        assert found["gradients"] == 0.0
        return found["seconds"], found["bytes"]

    seconds, size = estimate()
    assert 0.0 < seconds < 5.0 and size < 100e6
    assert estimate("--spectrum")[1] >= size
    assert estimate("--headers")[0] == 0.0
    assert estimate(SAMPLES / "mlp-2/step-000440.safetensors")[0] > 0.0


def test_what_is_not_finite_fails_a_job(run, tmp_path):
    save_file({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "c.safetensors")
    code, out, _ = run(tmp_path / "c.safetensors", "--json", "--fail-on", "fail")
    envelope = json.loads(out)
    assert (code, envelope["status"], envelope["findings"][0]["code"]) == (11, "fail", "tensor-not-finite")
    assert {"path": "result.tensors[0].norm", "value": "nan"} in envelope["nonfinite"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "CKPT"),
        (("nowhere.safetensors",), 3, "does not exist"),
        (("nowhere.safetensors", "no.safetensors"), 3, "does not exist"),
        (("c.safetensors", "--headers", "--spectrum"), 2, "--spectrum needs it"),
        (("c.safetensors", "--key", "model"), 2, "has none"),
        (("c.safetensors", "--model", "x.py:f"), 2, "--model"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    save_file({"w": torch.ones(2)}, tmp_path / "c.safetensors")
    found, out, err = run(*arguments)
    assert found == code and words in err and out == ""


@pytest.mark.parametrize("option", ["--headers", "--spectrum", "--all"])
def test_what_is_no_plain_tensor_is_named_and_the_others_are_measured(run, tmp_path, option):
    torch.save({"w": torch.eye(3), "s": torch.eye(3).to_sparse(), "m": torch.ones(2, device="meta")}, tmp_path / "x.pt")
    code, out, _ = run(tmp_path / "x.pt", option, "--json")
    tensors = {tensor["name"]: tensor for tensor in json.loads(out)["result"]["tensors"]}
    assert (code, tensors["s"]["dtype"], tensors["s"]["norm"]) == (0, "sparse float32", None)
    assert tensors["m"]["dtype"].startswith("without data")
    assert option == "--headers" or tensors["w"]["norm"] == pytest.approx(3**0.5)


def test_without_a_checkpoint_one_is_asked_for(run):
    code, _, err = run()
    assert code == 2 and "CKPT… is missing." in err and "Name a file or a directory." in err
