import json
import math
from pathlib import Path

import pytest

from fromage_cli.checkpoints.runs import trainer_logs
from fromage_cli.checkpoints.runs.trainer_logs import TrainerLog, read_trainer_logs

HISTORY = [
    {"epoch": 0.1, "step": 10, "loss": 2.5, "learning_rate": 1e-4, "grad_norm": 3.0},
    {"epoch": 0.2, "step": 20, "loss": 2.0, "learning_rate": 5e-5},
    {"epoch": 0.2, "step": 20, "eval_loss": 2.2},
    {"epoch": 0.3, "step": 30, "train_loss": 2.25, "train_runtime": 9.0},
]


def weights(folder: Path, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return folder / name


def only(path: Path, step: int | None = None) -> TrainerLog:
    (log,), notes = read_trainer_logs(path, step)
    assert notes == ()
    return log


def test_the_trainers_history(tmp_path):
    path = weights(tmp_path / "checkpoint-20")
    state = path.with_name("trainer_state.json")
    state.write_text(json.dumps({"global_step": 20, "log_history": HISTORY}))
    assert only(path, 20) == TrainerLog(state, 4, 20, 2.0, 5e-5, 0)
    assert only(path) == TrainerLog(state, 4, 30, 2.25, 5e-5, 0)
    assert only(path, 12) == TrainerLog(state, 4, 10, 2.5, 1e-4, 0)


def test_sparse_tables_of_lightning(tmp_path):
    path = weights(tmp_path / "version_0/checkpoints", "epoch=0-step=50.ckpt")
    table = tmp_path / "version_0/metrics.csv"
    table.write_text("epoch,lr-AdamW,step,train_loss,val_loss\n,0.001,24,,\n0,,24,0.75,\n0,,49,,0.5\n0,,49,0.25,\n")
    assert only(path, 50) == TrainerLog(table, 4, 49, 0.25, 0.001, 0)


@pytest.mark.parametrize("name", ["log.jsonl", "train_log.jsonl", "metrics.ndjson", "progress.jsonl"])
def test_lines_of_json_of_which_the_last_is_being_written(tmp_path, name):
    path = weights(tmp_path, "step-000200.pt")
    lines = [{"_step": 100, "train/loss": 3.0, "lr": 0.1}, {"_step": 200, "train/loss": math.nan, "lr": 0.05}]
    (tmp_path / name).write_text("\n".join(map(json.dumps, lines)) + '\n{"_step": 30')
    log = only(path, 200)
    assert (log.records, log.step, log.learning_rate, log.not_finite) == (2, 200, 0.05, 1)
    assert log.loss is not None and math.isnan(log.loss)


def test_a_table_with_tabs(tmp_path):
    path = weights(tmp_path)
    (tmp_path / "log.csv").write_text("iter\tLoss\tLR\n1\t0.5\t0.1\n2\t0.25\t0.1\n")
    assert only(path) == TrainerLog(tmp_path / "log.csv", 2, 2, 0.25, 0.1, 0)


def test_the_directory_above_is_looked_at_only_where_it_gathers_steps(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    assert only(weights(tmp_path / "checkpoint-500")).loss == 2.0
    assert only(weights(tmp_path / "checkpoints/step-5")).loss == 2.0
    assert read_trainer_logs(weights(tmp_path / "pretrained"), None) == ((), ())


def test_what_is_no_log_is_passed_over(tmp_path):
    path = weights(tmp_path)
    (tmp_path / "prices.csv").write_text("step,loss\n1,2\n")
    (tmp_path / "log.csv").write_text("time,price\n1,2\n")
    (tmp_path / "train.jsonl").write_text('{"text": "a line of training data", "loss": "high"}\n')
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "trainer_state.json").write_text("[1, 2]")
    assert read_trainer_logs(path, None) == ((), ())


def test_damage_is_said(tmp_path):
    path = weights(tmp_path)
    (tmp_path / "trainer_state.json").write_text('{"log_history": [')
    (tmp_path / "log.jsonl").write_text('{"loss": 1\n{"loss": 2}\n')
    logs, notes = read_trainer_logs(path, None)
    assert logs == () and len(notes) == 2 and all(note.startswith("Left out the log") for note in notes)


def test_limits(tmp_path, monkeypatch):
    path = weights(tmp_path)
    for index in range(4):
        (tmp_path / f"log-{index}.csv").write_text("step,loss\n1,2\n")
    monkeypatch.setattr(trainer_logs, "MOST_LOGS", 2)
    logs, notes = read_trainer_logs(path, None)
    assert len(logs) == 2 and notes == ("Read 2 of 4 logs beside the weights.",)
    monkeypatch.setattr(trainer_logs, "LARGEST_LOG", 5)
    assert "larger than 5 bytes" in read_trainer_logs(path, None)[1][0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trainer_state.json", '{"log_history": [' + "[]," * 300_000 + "{}]}", "far too many values"),
        ("log.jsonl", "\n" * 300_000, "more than 200000 lines"),
        ("log.csv", "loss\n" + "1\n" * 300_000, "more than 200000 lines"),
        ("log.csv", "loss" + "," * 1_100_000 + "\n1\n", "a line of more than 1000000"),
        ("log.jsonl", "[" * 100_000, "recursion"),
    ],
)
def test_logs_of_far_too_much_are_left_out(tmp_path, name, content, words):
    path = weights(tmp_path)
    (tmp_path / name).write_text(content)
    logs, notes = read_trainer_logs(path, None)
    assert logs == () and words in notes[0]
