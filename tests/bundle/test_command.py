"""`fromage-diag bundle`: what it writes, what it says of a bundle, and how it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fromage_cli import bundle

Call = Callable[..., tuple[int, str, str]]
KEPT = Path(__file__).parent / "kept-version-1"
SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
NETWORK = "import torch\n\ndef build():\n    torch.manual_seed(3)\n    return torch.nn.Linear(4, 3)\n"


def test_info_says_what_a_bundle_holds(call: Call) -> None:
    code, out, _ = call("bundle", "info", str(KEPT), "--format", "rich")
    words = " ".join(out.split())
    assert code == 0
    assert "Every command runs from this bundle alone." in words
    for part in (
        "Sequential",
        "modes: eval, auto, train",
        "12 rows",
        "x int64[4], y int64[]",
        "adamw",
        "all as written",
    ):
        assert part in words


def test_info_as_json_has_every_file_and_the_reason_of_each_null(call: Call) -> None:
    code, out, _ = call("bundle", "info", str(KEPT), "--json")
    result = json.loads(out)["result"]
    assert code == 0
    assert {file["name"] for file in result["files"]} == {path.name for path in KEPT.iterdir()} - {"bundle.json"}
    assert all(file["intact"] and file["bytes"] == (KEPT / file["name"]).stat().st_size for file in result["files"])
    nulls = {name for name, value in result.items() if value is None}
    assert nulls == {"why_no_graph", "fixed_rows", "autocast"} == set(result["missing"])


def test_check_gives_the_loss_that_was_saved(call: Call) -> None:
    code, out, _ = call("bundle", "info", str(KEPT), "--check", "--json")
    losses = json.loads(out)["result"]["losses"]
    assert code == 0 and [one["mode"] for one in losses] == ["eval", "auto", "train"]
    assert [one["now"] for one in losses] == pytest.approx([one["saved"] for one in losses], rel=1e-5)


def test_a_file_that_was_changed_is_a_failure(call: Call, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(KEPT, changed)
    weights = load_file(changed / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, changed / "model.safetensors", {"step": "2"})
    code, out, _ = call("bundle", "info", str(changed), "--check", "--fail-on", "fail", "--json")
    codes = {finding["code"] for finding in json.loads(out)["findings"]}
    assert code == 11 and codes == {"bundle-file-changed"}


def test_a_loss_that_is_not_the_saved_one_is_a_failure(call: Call, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(KEPT, changed)
    manifest = json.loads((changed / "bundle.json").read_text(encoding="utf-8"))
    manifest["graph"]["losses"]["eval"] *= 1.001
    (changed / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    code, out, _ = call("bundle", "info", str(changed), "--check", "--fail-on", "fail", "--json")
    (found,) = json.loads(out)["findings"]
    assert (code, found["code"], found["limit"]) == (11, "bundle-loss-differs", manifest["graph"]["losses"]["eval"])
    assert found["value"] == pytest.approx(found["limit"] / 1.001, rel=1e-5)


def test_no_command_measures_weights_that_were_changed(call: Call, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(KEPT, changed)
    weights = load_file(changed / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, changed / "model.safetensors", {"step": "2"})
    code, _, err = call("breakdown", "changed")
    assert code == 3 and "is not the file that the bundle's manifest names" in err


def test_constants_of_several_modes_stay_apart(call: Call, tmp_path: Path) -> None:
    class Shifted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shift = torch.tensor([1.0, 2.0, 3.0]) if self.training else torch.tensor([4.0, 5.0, 7.0])
            return super().forward(x) * shift

    network, rows = Shifted(4, 3), (torch.randn(6, 4), torch.randint(3, (6,)))
    bundle.save(tmp_path / "b", network, rows, "cross-entropy", strict=True)
    for mode in ("train", "eval"):
        expected = nn.functional.cross_entropy(network.train(mode == "train")(rows[0]), rows[1])
        found = json.loads(call("breakdown", "b", "--mode", mode, "--json")[1])["result"]["loss"]
        assert found == pytest.approx(float(expected), rel=1e-6)


def test_create_writes_what_a_command_measures(call: Call, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    weights = {"weight": torch.randn(3, 4), "bias": torch.randn(3)}
    save_file(weights, tmp_path / "w.safetensors", {"step": "7"})
    torch.save({"x": torch.randn(6, 4), "y": torch.randint(3, (6,))}, tmp_path / "rows.pt")
    named = ("w.safetensors", "--model", "net.py:build", "--batch", "rows.pt")
    code, _, _ = call("bundle", "create", named[0], "all", *named[1:])
    assert code == 0
    assert load_file(tmp_path / "all" / "model.safetensors").keys() == weights.keys()
    results = [json.loads(call("breakdown", *words, "--json")[1]) for words in (named, ("all",))]
    assert results[0]["result"] == results[1]["result"]
    assert results[1]["checkpoints"][0]["step"] == 7
    apart = json.loads(call("breakdown", "w.safetensors", "--model", "all", "--batch", "all", "--json")[1])
    assert apart["result"] == results[0]["result"]


def test_create_of_a_sample_keeps_its_optimizer(call: Call) -> None:
    sample = SAMPLES / "char-gpt"
    code, _, _ = call("bundle", "create", str(sample), "all", "--model", f"{SAMPLES / 'models.py'}:char_gpt")
    assert code == 0
    states = [json.loads(call("state", place, "--json")[1])["result"] for place in (str(sample), "all")]
    moved = [{row["name"]: row["update_rms"] for row in state["layers"]} for state in states]
    assert moved[0] == moved[1] and len(moved[0]) > 10


def test_a_bundle_without_a_graph_names_the_class_and_the_reason(call: Call, tmp_path: Path) -> None:
    class Chooses(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    with pytest.warns(UserWarning, match="has no graph of the network, so commands will need --model"):
        bundle.save(tmp_path / "b", Chooses(4, 3), (torch.randn(6, 4), torch.randint(3, (6,))), "cross-entropy")
    code, out, _ = call("bundle", "info", "b", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["result"]["modes"] == [] and "Chooses" in answer["result"]["factory"]
    assert [finding["code"] for finding in answer["findings"]] == ["bundle-without-graph"]
    code, _, err = call("breakdown", "b")
    assert code == 5 and "holds no graph of the network" in err and "Chooses" in err and "Traceback" not in err


def test_a_loss_of_torch_with_settings_takes_any_rows(call: Call, tmp_path: Path) -> None:
    criterion, network = nn.CrossEntropyLoss(label_smoothing=0.1), nn.Linear(4, 3)
    rows = torch.randn(6, 4), torch.randint(3, (6,))
    bundle.save(tmp_path / "b", network, rows, criterion, strict=True)
    result = json.loads(call("bundle", "info", "b", "--json")[1])["result"]
    assert (result["fixed_rows"], result["loss"]) == (None, "CrossEntropyLoss")
    answer = json.loads(call("breakdown", "b", "--micro-batch", "2", "--json")[1])["result"]
    assert answer["loss"] == pytest.approx(float(criterion(network(rows[0]), rows[1])), rel=1e-6)


def test_rows_that_became_a_plain_number_are_said(call: Call, tmp_path: Path) -> None:
    def loss(network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return network(batch["x"]).square().sum() / len(batch["x"])

    bundle.save(tmp_path / "b", nn.Linear(4, 3), {"x": torch.randn(6, 4)}, loss, strict=True)
    answer = json.loads(call("bundle", "info", "b", "--json")[1])
    assert [finding["code"] for finding in answer["findings"]] == ["bundle-rows-fixed"]
    code, _, err = call("breakdown", "b", "--micro-batch", "2")
    assert code == 5 and "holds for 6 rows alone" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("create", "w.safetensors"), 2, "bundle create takes a checkpoint and a directory"),
        (("info", "b", "c"), 2, "bundle info takes one path"),
        (("info", str(SAMPLES)), 3, "is no bundle"),
        (("info", "nothing"), 3, "does not exist"),
        (("info", str(KEPT), "--model", "net.py:build"), 2, "bundle info takes no --model"),
        (("info", str(KEPT), "--mode", "eval"), 2, "bundle info takes no --mode"),
        (("create", "w", "b", "--check"), 2, "bundle create takes no --check"),
        (("create", "w", "b", "--batches", "2"), 2, "A bundle keeps one batch"),
        (("create", "w", "b", "--mode", "eval"), 2, "bundle create takes no --mode"),
        (("make", "b"), 2, "make"),
    ],
)
def test_wrong_words_are_explained(call: Call, words: tuple[str, ...], code: int, message: str) -> None:
    found, _, err = call("bundle", *words)
    assert found == code and message in err and "Traceback" not in err


def test_nothing_but_a_bundle_is_replaced(call: Call, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work", encoding="utf-8")
    code, _, err = call("bundle", "create", str(KEPT), "precious")
    assert code == 3 and "is no bundle, so nothing was written" in err
    assert [path.name for path in precious.iterdir()] == ["thesis.tex"]
