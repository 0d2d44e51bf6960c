"""What tests of several rooms share: small problems with known answers."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from jsonschema import Draft202012Validator
from torch import nn

from fromage_cli.cli import main
from fromage_cli.errors import FromageError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.reference.schema import ROOTS, schema_of
from fromage_cli.terminal import envelope
from fromage_cli.watching import following

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")  # --hypothesis-profile default draws other examples each time
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

MOST_WORKERS = 8
"""Each worker holds torch and the weights of its tests, up to a gigabyte; more than eight save no time."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the whole suite over the processors; tests that are named run in this process, unless `-n` says otherwise.

    The hook of pytest-xdist, which comes after this one, starts the workers.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    spreads = config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput")
    if whole and spreads and config.option.numprocesses is None:
        config.option.numprocesses, config.option.maxprocesses, config.option.dist = "auto", MOST_WORKERS, "worksteal"


def pytest_collection_finish() -> None:
    """What all tests share stays as it is, so that collecting garbage need not look through it, in any fork either."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Tests send signals that a shell, or nohup, lets background jobs and all their children ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def closed(schema: Any) -> Any:
    """The same schema without keys that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(each) for key, each in schema.items()}
    return inner | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else inner


@cache
def validator(command: str) -> Draft202012Validator:
    """Of the envelopes of one command, every key of which the schema has to name."""
    return Draft202012Validator(closed(schema_of(command)))


@pytest.fixture(autouse=True, scope="session")
def valid_envelopes() -> Iterator[None]:
    """Every envelope and log line that a test makes fits its command's schema; what is made up has none."""
    as_json = envelope._as_json

    def checked(content: envelope.Envelope, error: FromageError | None) -> dict[str, Any]:
        made = as_json(content, error)
        if made["command"] in ROOTS and (content.result is None or is_dataclass(content.result)):
            validator(made["command"]).validate(made)
        return made

    def checked_line(*given: Any) -> Any:
        line = record_of(*given)
        if "tool" in line:  # else the envelope is made up
            validator("watch").validate(line)
        return line

    record_of = following.record_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "_as_json", checked)
        patch.setattr(following, "record_of", checked_line)
        yield


@pytest.fixture(autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user of this machine trusts plays no part."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws without a seed of its own does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the program in a directory of its own: its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return called


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """A Problem from a module and data, with the loss resolved as the program does."""

    def make(model: nn.Module, data: Any, loss: str = "auto", **settings: Any) -> Problem:
        batch = as_batch(data, "test data")
        return Problem(model, resolve_loss(loss, model, batch), batch, **settings)

    return make


@pytest.fixture
def classification() -> dict[str, torch.Tensor]:
    """32 rows of 8 features with 3 classes."""
    generator = torch.Generator().manual_seed(5)
    return {"x": torch.randn(32, 8, generator=generator), "y": torch.randint(3, (32,), generator=generator)}


@pytest.fixture
def perceptron() -> nn.Module:
    """8-16-16-3 with ReLU."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class _TanhOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(y := x.tanh())
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        return slope * (1.0 - y * y)


class _TanhOnceModule(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _TanhOnce.apply(x)
        return result


@pytest.fixture
def tanh_once() -> nn.Module:
    """tanh whose gradient torch refuses to differentiate."""
    return _TanhOnceModule()
