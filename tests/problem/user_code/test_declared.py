from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fromage_cli.errors import InputError, UnsafeError, UsageError
from fromage_cli.problem.user_code.declared import Declared, declared_beside


def declare(folder: Path, text: str, *, trust: bool = False, name: str = "fromage.toml") -> Declared:
    (folder / name).write_text(text)
    return declared_beside(folder / "model.safetensors", {}, trust=trust)


def refuse(folder: Path, text: str, metadata: Mapping[str, str] | None = None) -> None:
    """Raise what is raised where any of the declared values is used."""
    (folder / "fromage.toml").write_text(text)
    declared = declared_beside(folder / "model.safetensors", metadata or {})
    declared.check(*declared.faults)


def test_nothing_beside_declares_nothing(tmp_path: Path) -> None:
    assert declared_beside(tmp_path / "model.safetensors", {}) == Declared()


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "batch.npz").touch()
    declared = declare(
        tmp_path,
        'optimizer = "AdamW"\n'
        'activation = "GELU"\nresidual = true\nnorm = "layernorm"\nbatch = "batch.npz"\nloss = "mse"\nmode = "eval"\n'
        "learning_rate = 1\nweight-decay = 0.1\nmomentum = 0.9\nbetas = [0.9, 0.95]\nsteps_per_epoch = 40\n"
        "train_batch_size = 64\nschedule = 'Cosine'\nwarmup_steps = 0\ntotal_steps = 900\n",
    )
    assert declared == Declared(
        optimizer_name="adamw",
        activation="gelu",
        residual=True,
        norm="layernorm",
        batch=str(tmp_path / "batch.npz"),
        loss="mse",
        mode="eval",
        learning_rate=1.0,
        weight_decay=0.1,
        momentum=0.9,
        betas=(0.9, 0.95),
        steps_per_epoch=40,
        train_batch_size=64,
        schedule="cosine",
        warmup_steps=0,
        total_steps=900,
        source=tmp_path / "fromage.toml",
    )


def test_a_schedule_is_a_shape_or_a_table_in_the_directory(tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text("step,learning_rate\n0,0.1\n")
    assert declare(tmp_path, 'schedule = "rates.csv"').schedule == str(tmp_path / "rates.csv")
    with pytest.raises(UnsafeError, match=r"schedule = '\.\./rates\.csv', which lies outside"):
        refuse(tmp_path, 'schedule = "../rates.csv"')
    with pytest.raises(InputError, match=r"no such file in .*; expected constant, linear, cosine, or a table in it"):
        refuse(tmp_path, 'schedule = "cosin"')


@pytest.mark.parametrize("name", ["fromage.toml", "pyproject.toml"])
def test_the_tool_table_counts_in_either_file(tmp_path: Path, name: str) -> None:
    assert declare(tmp_path, '[tool.fromage-diag]\nactivation = "tanh"\n', name=name).activation == "tanh"


def test_a_pyproject_of_something_else_declares_nothing(tmp_path: Path) -> None:
    assert declare(tmp_path, '[project]\nname = "x"\n', name="pyproject.toml") == Declared()


def test_only_the_given_directory_and_that_of_the_opened_file_are_read(tmp_path: Path) -> None:
    step = tmp_path / "run" / "step-4"
    step.mkdir(parents=True)
    (tmp_path / "fromage.toml").write_text('activation = "elu"\n')
    (tmp_path / "run" / "fromage.toml").write_text('activation = "relu"\n')
    weights = step / "model.safetensors"
    assert declared_beside(weights, {}).activation is None
    assert declared_beside(tmp_path / "run", {}, opened=weights).activation == "relu"
    (step / "fromage.toml").write_text('activation = "tanh"\n')
    assert declared_beside(tmp_path / "run", {}, opened=weights).activation == "tanh"


def test_metadata_declares_the_same_keys_as_texts(tmp_path: Path) -> None:
    metadata = {"activation": "relu", "residual": "True", "learning_rate": "3e-4", "betas": ".9,.95", "format": "pt"}
    metadata |= {"steps_per_epoch": "12", "betas": "0.9, 0.95"}
    declared = declared_beside(tmp_path / "model.safetensors", metadata)
    assert declared == Declared(
        activation="relu", residual=True, learning_rate=3e-4, betas=(0.9, 0.95), steps_per_epoch=12
    )


def test_the_file_wins_over_metadata(tmp_path: Path) -> None:
    (tmp_path / "fromage.toml").write_text('activation = "tanh"\n')
    declared = declared_beside(tmp_path / "model.safetensors", {"activation": "relu", "norm": "rmsnorm"})
    assert (declared.activation, declared.norm) == ("tanh", "rmsnorm")


def test_metadata_of_other_programs_is_passed_over(tmp_path: Path) -> None:
    metadata = {"loss": "0.42", "model": "resnet.py:make", "batch": "32", "learning_rate": "cosine", "mode": "fast"}
    assert declared_beside(tmp_path / "model.safetensors", metadata) == Declared()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('optimizer = "adamx"', "optimizer = 'adamx'; expected one of fromage, lars"),
        ("optimizer = {}", "expected one of fromage"),
        ('activation = "swish"', "one of relu, leaky_relu"),
        ('residual = "yes"', "true or false"),
        ("norm = true", "one of none, layernorm"),
        ('mode = "test"', "one of auto, train, eval"),
        ('loss = "hinge"', "unknown loss 'hinge'"),
        ("learning_rate = 0", "above 0"),
        ("learning_rate = inf", "above 0"),
        ("learning_rate = true", "above 0"),
        ("weight_decay = -1", "0 or above"),
        ("momentum = 1.0", "below 1"),
        ("betas = [0.9]", "two numbers"),
        ("betas = [0.9, 1.0]", "two numbers"),
        ("steps_per_epoch = 2.5", "whole number"),
        ("train_batch_size = 0", "whole number above 0"),
        ("warmup_steps = -1", "0 or above"),
        ("schedule = 3", "not a string"),
        ("batch = 3", "not a string"),
        ('batch = "data.csv"', "expected a file .safetensors"),
        ("activation = ", "not valid TOML"),
        ("activation = " + "[" * 20_000, "not valid TOML"),
        ("learning_rate = " + "1" * 5_000, "not valid TOML"),
        ("learning_rate = " + "1" * 400, "more than 64 bits"),
        ("betas = [0.9, 1" + "0" * 400 + "]", "more than 64 bits"),
        ("#" * 1_000_001, "larger than 1000000 bytes"),
        ("[tool]\nfromage-diag = 3", "not a table"),
    ],
)
def test_wrong_declarations_are_usage_errors_where_they_are_used(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        refuse(tmp_path, text)
    assert caught.value.hint
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("key", ["lr", "learning_rate", "learning-rate"])
def test_the_learning_rate_has_three_spellings(tmp_path: Path, key: str) -> None:
    assert declare(tmp_path, f"{key} = 0.5").learning_rate == 0.5


def test_keys_outside_of_the_table_are_left_aside_with_a_note(tmp_path: Path) -> None:
    found = declare(tmp_path, "learning-rate = 0.5\n[tool.fromage-diag]\nmomentum = 0.9\n")
    assert (found.learning_rate, found.momentum) == (None, 0.9)
    (note,) = found.notes
    assert "'learning-rate'" in note and "[tool.fromage-diag]" in note


def test_what_is_wrong_makes_nothing_fail_that_does_without_it(tmp_path: Path) -> None:
    text = 'model = "net.py:build"\nbatch = 32\nloss = "mse"\nlr = "fast"\nactivation = "relu"\nmode = "test"\n'
    found = declare(tmp_path, text)
    found.check("loss", "activation", "residual", "norm")
    assert (found.loss, found.activation, found.learning_rate) == ("mse", "relu", None)
    assert sorted(found.faults) == ["batch", "learning_rate", "mode", "model"]
    assert len(found.notes) == 3 and all(note.startswith("not used: ") for note in found.notes)
    assert found.foreign == ("model",)
    with pytest.raises(UnsafeError):
        found.check("loss", "model")


def test_keys_of_something_else_are_told_and_say_nothing(tmp_path: Path) -> None:
    found = declare(tmp_path, 'seed = 1\nepochs = [1]\n[breakdown]\nbatch = "x.npz"\n[tool.other]\nckpt = 3\n')
    assert found.foreign == ("seed", "epochs", "breakdown", "tool")
    assert replace(found, source=None, foreign=()) == Declared()


@pytest.mark.parametrize(
    "text", ["tool = 5", "a." * 20_000 + "a = 1", "x = " + "[" * 400 + "]" * 400, "x = 0x" + "f" * 5000]
)
def test_a_file_that_cannot_be_read_is_one_note(tmp_path: Path, text: str) -> None:
    found = declare(tmp_path, text)
    assert (found.activation, found.batch) == (None, None)
    assert len(found.notes) + len(found.foreign) == 1
    (tmp_path / "fromage.toml").unlink()
    (tmp_path / "fromage.toml").symlink_to("fromage.toml")
    assert declared_beside(tmp_path / "model.safetensors", {}) == Declared()


@pytest.mark.parametrize(
    "text",
    [
        'batch = "../batch.npz"',
        'batch = "/etc/batch.npz"',
        'batch = "https://host/batch.npz"',
        'batch = "data.py:function"',
        'batch = "pkg.module:function"',
        'loss = "loss.py:function"',
        'loss = "pkg:function"',
        'model = "model.py:factory"',
        'model = "hf"',
    ],
)
def test_code_and_ways_out_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnsafeError) as caught:
        refuse(tmp_path, text)
    assert "--trust" in caught.value.hint


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "batch.npz").touch()
    (tmp_path / "run" / "batch.npz").symlink_to(tmp_path / "batch.npz")
    with pytest.raises(UnsafeError, match="lies outside"):
        refuse(tmp_path / "run", 'batch = "batch.npz"')


@pytest.mark.parametrize("name", ["loop.npz", "a\\u0000.npz", "a" * 5000 + ".npz"])
def test_a_batch_that_no_path_leads_to_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    with pytest.raises(InputError, match="not the path of a file") as caught:
        refuse(tmp_path, f'batch = "{name}"')
    assert len(caught.value.message) < 200


def test_a_file_whose_name_looks_like_code_never_becomes_code(tmp_path: Path) -> None:
    (tmp_path / "data.py:function").touch()
    with pytest.raises(UnsafeError):
        refuse(tmp_path, 'batch = "data.py:function"')


def test_metadata_may_not_lead_outside_either(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="metadata sets batch"):
        refuse(tmp_path, "", {"batch": "../secret.npz"})


def test_a_wrong_architecture_in_metadata_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="metadata: activation = 'swish'"):
        refuse(tmp_path, "", {"activation": "swish"})


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file"):
        refuse(tmp_path, 'batch = "batch.npz"')


def test_trust_lifts_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "batch.npz").touch()
    declared = declare(
        tmp_path / "run", 'model = "model.py:make"\nloss = "pkg.mod:loss"\nbatch = "../batch.npz"\n', trust=True
    )
    assert declared.model == f"{tmp_path / 'run' / 'model.py'}:make"
    assert declared.loss == "pkg.mod:loss"
    assert Path(str(declared.batch)).samefile(tmp_path / "batch.npz")
    code = declare(tmp_path / "run", 'batch = "data.py:make"', trust=True)
    assert code.batch == f"{tmp_path / 'run' / 'data.py'}:make"


def test_an_unreadable_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "fromage.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        declared_beside(tmp_path / "model.safetensors", {}).check("batch")


def test_metadata_that_mislead_are_passed_over(tmp_path: Path) -> None:
    metadata = {"betas": "[1" + "0" * 400 + ", 0.9]", "residual": "[" * 100_000, "learning_rate": "1e999"}
    assert (
        declared_beside(tmp_path / "c.pt", {name: metadata[name] for name in ("betas", "learning_rate")}) == Declared()
    )
    with pytest.raises(UsageError, match="true or false"):
        declared_beside(tmp_path / "c.pt", metadata).check("residual")
