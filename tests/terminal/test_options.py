import inspect
import json
from dataclasses import fields
from typing import Annotated

import pytest
import typer

from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.options import (
    BatchOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    TensorOptions,
    diagnostic,
)


def test_flattened_and_whole_again(call, fake):
    outcome = call(
        "measure",
        "x.pt",
        *("--model", "m.py:f", "--model-arg", "a=1", "--model-arg", "b=x", "--key", "ema", "--trust"),
        *("--batch", "b.npz", "--seq-len", "8", "--sequences", "2", "--loss", "mse", "--mode", "train"),
        *("--micro-batch", "4", "--tensors", "all", "--include", "a*", "--exclude", "b*", "--exclude", "c*"),
        *("--device", "cuda:1", "--dtype", "float64", "--seed", "5", "--autocast", "--time-limit", "5m"),
        *("--max-memory", "8GB", "--estimate", "--format", "csv", "--all", "-q", "-v", "--no-progress", "--force"),
    )
    assert outcome.code == 0
    assert fake.SEEN["model"] == ModelOptions(model="m.py:f", model_arg=["a=1", "b=x"], key="ema", trust=True)
    assert fake.SEEN["model"].model_arguments == {"a": 1, "b": "x"}
    assert fake.SEEN["batch"] == BatchOptions("b.npz", 8, 2, loss="mse", mode="train", micro_batch=4)
    assert fake.SEEN["tensors"] == TensorOptions(tensors="all", include=["a*"], exclude=["b*", "c*"])
    assert fake.SEEN["run"] == RunOptions("cuda:1", "float64", 5, True, 300.0, 8 * 10**9, True)
    assert fake.SEEN["output"] == OutputOptions(
        "csv", show_all=True, quiet=True, verbose=True, no_progress=True, force=True
    )


def test_defaults_are_those_of_the_dataclasses(call, fake):
    call("measure")
    assert fake.SEEN["model"] == ModelOptions()
    assert fake.SEEN["batch"] == BatchOptions()
    assert fake.SEEN["tensors"] == TensorOptions()
    assert fake.SEEN["run"] == RunOptions()
    assert fake.SEEN["output"] == OutputOptions()


def test_settings_hold_every_flag_in_effect(call):
    settings = json.loads(call("measure", "--json", "--seed", "3", "--include", "a").out)["settings"]
    names = {field.name for group in (ModelOptions, BatchOptions, TensorOptions, RunOptions) for field in fields(group)}
    assert names <= set(settings)
    assert {"how", "lr", "all", "fail_on", "no_progress", "output"} <= set(settings)
    assert "ckpt" not in settings and "help" not in settings
    assert settings["seed"] == 3
    assert settings["include"] == ["a"]
    assert settings["format"] == "json"
    assert settings["mode"] == "eval"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seed", "-1"),
        ("--seed", "9" * 30),
        ("--mode", "fast"),
        ("--dtype", "bfloat16"),
        ("--device", "gpu"),
        ("--device", "cuda:x"),
        ("--time-limit", "soon"),
        ("--max-memory", "lots"),
        ("--micro-batch", "0"),
        ("--model-arg", "x"),
        ("--tensors", "some"),
        ("--fail-on", "always"),
        ("--format", "xml"),
        ("--lr", "fast"),
        ("-o", ""),
    ],
)
def test_wrong_values_name_flag_and_value(call, arguments):
    outcome = call("measure", *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    first = outcome.err.splitlines()[0]
    assert first.startswith("error: --")
    assert arguments[1] in first
    assert "Value error" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lr", "fast"), "--lr: 'fast': expected a number, such as 0.001."),
        (("--micro-batch", "2.5"), "--micro-batch: '2.5': expected a whole number, such as 10."),
        (("--micro-batch", "0"), "--micro-batch: '0': expected at least 1."),
    ],
)
def test_what_a_number_must_be_is_said_in_plain_words(call, arguments, words):
    assert call("measure", *arguments).err.splitlines()[0] == f"error: {words}"


def test_a_commands_own_defaults():
    @diagnostic(tables=("a",), estimate=True, defaults={"device": "cpu", "fail_on": "fail"})
    def command(first: Annotated[str, typer.Argument()], run: RunOptions) -> Answer:
        """Say."""
        return run  # type: ignore[return-value]

    parameters = inspect.signature(command).parameters
    assert parameters["device"].default == "cpu"
    assert parameters["fail_on"].default == "fail"
    assert "run" not in parameters
    assert command.__doc__ == "Say."
    assert command(first="x", device="cpu", seed=4) == RunOptions(device="cpu", seed=4)


def test_a_command_that_tells_its_cost_takes_the_flag_for_it():
    def command(first: Annotated[str, typer.Argument()]) -> Answer:
        """Say."""
        return first  # type: ignore[return-value]

    with pytest.raises(TypeError, match="takes no RunOptions"):
        diagnostic(tables=(), estimate=True)(command)
    assert "estimate" not in inspect.signature(diagnostic(tables=(), estimate=False)(command)).parameters


def test_every_shared_flag_is_explained_in_short_sentences(call):
    for group in (ModelOptions, BatchOptions, TensorOptions, RunOptions, OutputOptions):
        for name, annotation in inspect.get_annotations(group).items():
            info = annotation.__metadata__[0]
            assert info.help.endswith("."), name
            assert len(info.help) < 150, name
            assert all(len(sentence.split()) <= 20 for sentence in info.help.split(". ")), name
            assert group.__name__.startswith(info.rich_help_panel.removesuffix("s"))


@pytest.mark.parametrize("given", ["float64", "Float64", "FLOAT64"])
def test_choices_are_read_in_any_case(call, fake, given, monkeypatch):
    assert call("measure", "--dtype", given, "--loss", "MSE", "--model", "HF", "--device", "CPU").code == 0
    assert (fake.SEEN["run"].dtype, fake.SEEN["run"].device) == ("float64", "cpu")
    assert (fake.SEEN["batch"].loss, fake.SEEN["model"].model) == ("mse", "hf")
    monkeypatch.setenv("FROMAGE_DIAG_DTYPE", given)
    assert call("measure", "--table", "CURVE", "--format", "TSV").out.startswith("eta\t")
    assert fake.SEEN["run"].dtype == "float64"


def test_names_keep_their_case(call, fake):
    call("measure", "--loss", "Losses.py:MSE", "--model", "Net.py:HF")
    assert (fake.SEEN["batch"].loss, fake.SEEN["model"].model) == ("Losses.py:MSE", "Net.py:HF")


def test_an_unknown_choice_comes_with_the_nearest(call, clean, monkeypatch):
    outcome = call("measure", "--dtype", "Float46")
    assert outcome.code == 2
    assert "Nearest: float64" in outcome.err
    assert "Nearest: curve" in call("measure", "--table", "curves").err
    (clean / "fromage.toml").write_text("dtype = 'float46'\n")
    outcome = call("measure")
    assert outcome.code == 2
    assert "Nearest: float64" in outcome.err and "fromage.toml" in outcome.err
