"""The numbers of a diagnosis in TensorBoard's own files and in a real local store of MLflow."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.errors import InputError
from fromage_cli.watching.sinks import mlflow_sink, scalars, send, tensorboard_sink

from .conftest import envelope

WHEN = "2026-01-01T00:00:00+00:00"
SECONDS = 1767225600.0


def record(verdict: str | None = "look", step: int | None = 7) -> dict[str, Any]:
    return {"watched_at": WHEN, "step": step, **envelope(verdict)}


def test_the_single_numbers_of_each_command_are_taken() -> None:
    results = {"inspect": {"totals": {"norm": 2.5, "count": 3}, "tensors": [{"norm": 1.0}], "name": "x"}}
    results["sharpness"] = {"ratio": None, "stable": True, "learning_rate": 0.1}
    judged = record() | {"result": {"verdict": "look", "results": results}}
    assert scalars(judged) == {
        **{"verdict": 1.0, "inspect/totals/norm": 2.5, "inspect/totals/count": 3.0},
        "sharpness/learning_rate": 0.1,
    }
    assert [scalars(record(verdict))["verdict"] for verdict in ("go", "look", "stop")] == [0.0, 1.0, 2.0]
    assert scalars(record(None)) == {}


def test_a_sink_that_fails_is_told_and_does_no_harm() -> None:
    def broken(step: int, seconds: float, numbers: Mapping[str, float]) -> None:
        raise ConnectionError("nobody there\nand more")

    said: list[str] = []
    send(broken, record(), said.append)
    assert said == ["note: the numbers could not be sent: ConnectionError: nobody there"]
    send(broken, record(None), said.append)
    assert len(said) == 1


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_where_the_library_is_missing_the_extra_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name, *(one for one in sys.modules if one.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"--{name} needs the extra: {name}") as caught:
        tensorboard_sink(tmp_path) if name == "tensorboard" else mlflow_sink(str(tmp_path), tmp_path)
    assert f"fromage-diag[{name}]" in caught.value.hint


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step in (7, 9):  # a watch that is begun again goes on beside the first one's file
        send(tensorboard_sink(tmp_path), record("look", step), print)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Tags()["scalars"] == ["fromage-diag/verdict", "fromage-diag/inspect/totals/a"]
    found = [(one.step, one.value, one.wall_time) for one in read.Scalars("fromage-diag/verdict")]
    assert found == [(7, 1.0, SECONDS), (9, 1.0, SECONDS)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return (tmp_path / "store").as_uri()


def test_mlflow_has_one_run_for_a_log_also_when_it_is_watched_again(store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    for step in (7, 9):
        send(mlflow_sink(store, tmp_path / "it's.jsonl"), record("stop", step), print)
    (run,) = MlflowClient(tracking_uri=store).search_runs(["0"])
    history = MlflowClient(tracking_uri=store).get_metric_history(run.info.run_id, "fromage-diag/verdict")
    assert run.data.tags["log"] == str(tmp_path / "it's.jsonl")
    assert [(one.step, one.value, one.timestamp) for one in history] == [
        (7, 2.0, 1000 * SECONDS),
        (9, 2.0, 1000 * SECONDS),
    ]


def test_mlflow_takes_the_run_of_the_training_where_it_is_known(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    run = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    send(mlflow_sink(store, tmp_path / "log"), record("go"), print)
    assert client.get_run(run).data.metrics["fromage-diag/verdict"] == 0.0
    assert len(client.search_runs(["0"])) == 1


def test_a_server_that_cannot_be_asked_is_an_input_error(store: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--mlflow nothing:"):
        mlflow_sink("nothing://here", tmp_path / "log")
