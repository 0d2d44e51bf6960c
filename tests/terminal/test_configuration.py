import json

import pytest

from fromage_cli.terminal import session
from fromage_cli.terminal.configuration import without_other_optimizers


def test_four_sources_in_their_order(call, fake, clean, monkeypatch):
    assert call("measure").code == 0
    assert fake.SEEN["run"].seed == 0
    (clean / "fromage.toml").write_text("seed = 1\n")
    call("measure")
    assert fake.SEEN["run"].seed == 1
    (clean / "fromage.toml").write_text("seed = 1\n[measure]\nseed = 2\n")
    call("measure")
    assert fake.SEEN["run"].seed == 2
    monkeypatch.setenv("FROMAGE_DIAG_SEED", "3")
    call("measure")
    assert fake.SEEN["run"].seed == 3
    call("measure", "--seed", "4")
    assert fake.SEEN["run"].seed == 4


def test_a_table_of_pyproject_counts_and_subtables_override(call, fake, clean):
    (clean / "pyproject.toml").write_text(
        "[tool.other]\nx = 1\n[tool.fromage-diag]\ntime_limit = '2m'\nautocast = true\nlr = 1e-4\n"
        "[tool.fromage-diag.measure]\ninclude = ['a*', 'b*']\nmodel-arg = { width = 64, name = 'x' }\n"
    )
    assert call("measure", "-q").code == 0
    assert fake.SEEN["run"].time_limit == 120
    assert fake.SEEN["run"].autocast is True
    assert fake.SEEN["tensors"].include == ["a*", "b*"]
    assert fake.SEEN["model"].model_arguments == {"width": 64, "name": "x"}
    assert fake.SEEN["lr"] == 1e-4


def test_environment_lists_are_json_and_wrong_ones_name_the_variable(call, fake, monkeypatch):
    monkeypatch.setenv("FROMAGE_DIAG_INCLUDE", '["a*", "b c"]')
    call("measure")
    assert fake.SEEN["tensors"].include == ["a*", "b c"]
    call("measure", "--include", "z")
    assert fake.SEEN["tensors"].include == ["z"]
    for wrong in ("a*", '"a"', "[1, [2]]"):
        monkeypatch.setenv("FROMAGE_DIAG_INCLUDE", wrong)
        outcome = call("measure")
        assert outcome.code == 2
        assert "FROMAGE_DIAG_INCLUDE" in outcome.err


@pytest.mark.parametrize(("text", "truth"), [("1", True), ("true", True), ("0", False), ("no", False), ("", False)])
def test_environment_booleans(call, fake, monkeypatch, text, truth):
    monkeypatch.setenv("FROMAGE_DIAG_AUTOCAST", text)
    call("measure")
    assert fake.SEEN["run"].autocast is truth


@pytest.mark.parametrize("flag", ["TRUST", "FORCE", "JSON", "ESTIMATE", "OUTPUT"])
def test_some_flags_have_no_variable(call, fake, monkeypatch, flag):
    monkeypatch.setenv(f"FROMAGE_DIAG_{flag}", "1")
    outcome = call("measure")
    assert outcome.code == 0
    assert outcome.out.startswith("name\t")
    assert f"FROMAGE_DIAG_{flag} has no effect" in outcome.err
    assert not fake.SEEN["model"].trust
    assert not fake.SEEN["run"].estimate


def test_variables_of_other_commands_do_no_harm(call, monkeypatch):
    monkeypatch.setenv("FROMAGE_DIAG_TOP", "not a number")
    assert call("measure").code == 0
    outcome = call("other-one", "x")
    assert outcome.code == 2
    assert "FROMAGE_DIAG_TOP" in outcome.err


def test_variables_are_not_in_the_help(call):
    assert "FROMAGE_DIAG" not in call("measure", "--help").out


@pytest.mark.parametrize(
    "variable, value", [("SEED", "x"), ("MODE", "fast"), ("TIME_LIMIT", "soon"), ("DEVICE", "tpu")]
)
def test_a_wrong_variable_is_named(call, monkeypatch, variable, value):
    monkeypatch.setenv(f"FROMAGE_DIAG_{variable}", value)
    outcome = call("measure")
    assert outcome.code == 2
    assert f"FROMAGE_DIAG_{variable}" in outcome.err
    assert value in outcome.err


@pytest.mark.parametrize(
    "line",
    [
        "seed = 'x'",
        "mode = 'fast'",
        "autocast = 3",
        "include = 'a'",
        "model = true",
        "micro-batch = 0",
        'ckpt = "a\\u0000b"',
    ],
)
def test_a_wrong_value_names_key_and_file(call, clean, line):
    (clean / "fromage.toml").write_text(line)
    outcome = call("measure")
    assert outcome.code == 2
    assert line.split(" ")[0] in outcome.err
    assert "fromage.toml" in outcome.err


def test_an_unknown_key_names_the_nearest_and_the_file(call, clean):
    (clean / "fromage.toml").write_text("sede = 3\n")
    outcome = call("measure")
    assert outcome.code == 2
    assert "'sede'" in outcome.err
    assert "seed" in outcome.err.replace("sede", "")
    assert "fromage.toml" in outcome.err
    (clean / "fromage.toml").write_text("[other-one]\nmodel = 'x'\n")
    assert call("measure").code == 2


def test_keys_of_other_commands_are_known(call, clean):
    (clean / "fromage.toml").write_text("top = 3\nactivation = 'relu'\n[other_one]\ntop = 4\n")
    assert call("measure").code == 0
    document = json.loads(call("other-one", "x", "--json", "--fail-on", "never").out)
    assert document["result"] == {"top": 4}
    assert document["settings"]["top"] == 4


@pytest.mark.parametrize("key", ["lr", "learning_rate", "learning-rate"])
def test_the_learning_rate_has_three_spellings(call, fake, clean, key):
    (clean / "fromage.toml").write_text(f"{key} = 0.5\n")
    assert call("measure").code == 0
    assert fake.SEEN["lr"] == 0.5


def test_keys_stand_at_the_top_or_in_the_table_but_not_in_both(call, fake, clean):
    (clean / "fromage.toml").write_text("[tool.fromage-diag]\nseed = 4\n[tool.other]\nx = 1\n")
    assert call("measure").code == 0
    assert fake.SEEN["run"].seed == 4
    (clean / "fromage.toml").write_text("learning-rate = 0.5\n[tool.fromage-diag]\nseed = 4\n")
    outcome = call("measure")
    assert outcome.code == 2
    assert "learning-rate" in outcome.err and "[tool.fromage-diag]" in outcome.err and "fromage.toml" in outcome.err


def test_a_key_in_two_spellings_is_refused(call, clean):
    (clean / "fromage.toml").write_text("lr = 0.5\n[measure]\nseq-len = 3\nseq_len = 3\n")
    outcome = call("measure")
    assert outcome.code == 2
    assert "seq-len twice" in outcome.err


def test_trust_holds_for_one_call(call, clean):
    (clean / "fromage.toml").write_text("trust = true\n")
    outcome = call("measure")
    assert outcome.code == 2
    assert "one call" in outcome.err


@pytest.mark.parametrize("text", [b"seed = = 3", b"\xff\xfe", b"[tool]\nfromage-diag = 3"])
def test_a_broken_file_is_named(call, clean, text):
    (clean / "fromage.toml").write_bytes(text)
    outcome = call("measure")
    assert outcome.code == 2
    assert "fromage.toml" in outcome.err
    assert "Traceback" not in outcome.err


def test_help_does_not_read_a_broken_file(call, clean):
    (clean / "fromage.toml").write_text("= 3")
    assert call("measure", "--help").code == 0
    assert call("--version").code == 0


def test_a_file_in_the_checkpoints_directory_is_data(call, fake, clean, monkeypatch):
    run = clean / "run"
    (run / "deep").mkdir(parents=True)
    (run / "model.pt").touch()
    (run / "fromage.toml").write_text("seed = 9\nmodel = 'evil.py:build'\nactivation = 'relu'\n")
    (clean / "fromage.toml").write_text("seed = 1\n")
    monkeypatch.chdir(run)
    for spelled in ("model.pt", "./model.pt", str(run / "model.pt"), "../run/model.pt", ".", "deep/../model.pt"):
        outcome = call("measure", spelled)
        assert fake.SEEN["run"].seed == 1, spelled
        assert fake.SEEN["model"].model is None
        assert "data only" in outcome.err
        assert "model, seed" in outcome.err
    monkeypatch.chdir(run / "deep")
    call("measure", "..")
    assert fake.SEEN["run"].seed == 1
    call("measure", "../model.pt", "--trust")
    assert fake.SEEN["model"].model == f"{run}/evil.py:build"


def test_a_project_above_its_checkpoints_is_heard(call, fake, clean):
    (clean / "runs").mkdir()
    (clean / "runs" / "model.pt").touch()
    (clean / "fromage.toml").write_text("seed = 7\nmodel = 'net.py:build'\n")
    assert call("trust", ".").code == 0
    call("measure", "runs/model.pt")
    assert fake.SEEN["run"].seed == 7
    assert fake.SEEN["model"].model == "net.py:build"
    call("measure", "https://host/model.pt")
    assert fake.SEEN["run"].seed == 7


def test_the_project_may_name_the_checkpoint(call, fake, clean):
    (clean / "runs").mkdir()
    (clean / "runs" / "model.pt").touch()
    (clean / "fromage.toml").write_text("ckpt = 'runs/model.pt'\nseed = 7\n")
    call("measure")
    assert str(fake.SEEN["ckpt"]) == "runs/model.pt"
    assert fake.SEEN["run"].seed == 7


def test_of_a_project_that_names_a_checkpoint_beside_itself_only_the_name_counts(call, fake, clean):
    (clean / "model.pt").touch()
    (clean / "fromage.toml").write_text("ckpt = 'model.pt'\nseed = 7\nmodel = 'evil.py:build'\n")
    outcome = call("measure")
    assert str(fake.SEEN["ckpt"]) == "model.pt"
    assert fake.SEEN["run"].seed == 0
    assert fake.SEEN["model"].model is None
    assert "data only" in outcome.err


def test_paths_in_a_file_are_relative_to_it(call, fake, clean, monkeypatch):
    (clean / "nets").mkdir()
    (clean / "nets" / "net.py").touch()
    (clean / "fromage.toml").write_text("model = 'nets/net.py:build'\nloss = 'mse'\nbatch = 'not-there.npz'\n")
    (clean / "inner").mkdir()
    monkeypatch.chdir(clean / "inner")
    call("trust", "..")
    call("measure")
    assert fake.SEEN["model"].model == f"{clean}/nets/net.py:build"
    assert fake.SEEN["batch"].loss == "mse"
    assert fake.SEEN["batch"].batch == "not-there.npz"


def test_the_session_knows_sources(call, fake, clean, monkeypatch):
    (clean / "fromage.toml").write_text("seed = 7\n")
    monkeypatch.setenv("FROMAGE_DIAG_MODE", "eval")
    seen = []
    monkeypatch.setattr(fake, "misbehave", lambda how: seen.append(session.current()))
    call("measure", "--rows", "1")
    origins = seen[0].origins
    assert [origins[name] for name in ("seed", "mode", "rows", "loss")] == [
        "project",
        "environment",
        "command line",
        "default",
    ]
    assert seen[0].project.source == clean / "fromage.toml"


def test_json_and_format_of_different_strength(call, clean, monkeypatch):
    (clean / "fromage.toml").write_text("json = true\n")
    assert call("measure").out.startswith("{")
    assert call("measure", "--format", "csv").out.startswith("name,")
    monkeypatch.setenv("FROMAGE_DIAG_FORMAT", "csv")
    assert call("measure").out.startswith("name,")
    assert call("measure", "--json").out.startswith("{")


@pytest.mark.parametrize("line", ["trusted = ['ab']", "other-one = 3"])
def test_a_key_that_nothing_reads_is_unknown(call, clean, line):
    (clean / "fromage.toml").write_text(line)
    outcome = call("measure")
    assert outcome.code == 2
    assert f"No command has the key '{line.split(' ')[0]}' of fromage.toml" in outcome.err
    assert "Nearest: " in outcome.err


def test_settings_of_another_optimizer_than_the_one_chosen_are_left_aside():
    written = {flag: (flag, "") for flag in ("lr", "momentum", "seed")}
    assert without_other_optimizers(written, "adam") == written
    written |= {"optimizer": ("AdamW", "")}
    assert without_other_optimizers(written, "adamw") == without_other_optimizers(written, None) == written
    assert sorted(without_other_optimizers(written, "adam")) == ["optimizer", "seed"]
