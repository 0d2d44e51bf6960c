import json

import pytest


def test_what_is_trusted_is_shown_and_removed(call, clean):
    (clean / "fromage.toml").write_text("model = 'net.py:build'\n")
    (clean / "net.py").touch()
    page = call("trust", ".", "--format", "rich").out
    assert "net.py:build" in page and f"{clean}/net.py" in page.replace("\n", "")
    entry = {"path": f"{clean}/fromage.toml", "code": ["net.py:build"], "files": [f"{clean}/net.py"], "unchanged": True}
    entry["beside"] = []
    assert json.loads(call("trust", "--list", "--json").out)["result"] == {"trusted": [entry], "removed": []}
    (clean / "net.py").write_text("changed = True")
    assert call("trust", "--list").out == f"path\tunchanged\n{clean}/fromage.toml\tfalse\n"
    (clean / "fromage.toml").write_text("= broken")
    assert "asks again" in call("trust", "--list", "--format", "rich").out
    assert json.loads(call("trust", "fromage.toml", "--remove", "--json").out)["result"]["removed"] == [entry["path"]]
    assert call("trust", "--list").out == "path\tunchanged\n"
    assert "Nothing in" in call("trust", ".", "--remove", "--format", "rich").out


@pytest.mark.parametrize("name", ["model.pt", "a.SafeTensors", "pytorch_model.bin"])
def test_a_yes_that_does_not_hold_for_checkpoints_beside_it_says_so(call, clean, name):
    (clean / "fromage.toml").write_text("model = 'net.py:build'\n")
    for other in ("net.py", "tokens.bin", name):
        (clean / other).touch()
    (clean / "run.pt").mkdir()
    outcome = call("trust", ".", "--json")
    envelope = json.loads(outcome.out)
    assert (outcome.code, envelope["status"]) == (0, "ok")
    assert envelope["result"]["trusted"][0]["beside"] == [name]
    page = " ".join(call("trust", ".", "--format", "rich").out.split())
    assert f"does not hold for {name}" in page and "one directory up. Or add --trust" in page
    assert f"does not hold for {name}" in call("trust", "--list").err
    (clean / "fromage.toml").write_text("mode = 'eval'\n")
    assert json.loads(call("trust", ".", "--json").out)["findings"] == []


def test_only_the_newest_yes_of_a_directory_is_kept(call, clean):
    for model in ("a.py:f", "b.py:f"):
        (clean / "fromage.toml").write_text(f"model = '{model}'\n")
        call("trust", ".")
    assert len(call("trust", "--list").out.splitlines()) == 2


def test_a_configuration_that_is_not_there_or_broken_is_said(call, clean):
    assert call("trust", ".").code == 3
    (clean / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    outcome = call("trust", ".")
    assert outcome.code == 3 and "[tool.fromage-diag]" in outcome.err
    (clean / "fromage.toml").write_text("= 3")
    assert call("trust", ".").code == 2
    assert call("trust", "--list").code == 0


def test_it_takes_a_directory_or_asks_for_the_list(call, monkeypatch):
    for words in ((), (".", "--list"), ("--list", "--remove"), ("--remove",)):
        assert call("trust", *words).code == 2
    monkeypatch.setenv("FROMAGE_DIAG_LIST", "1")
    assert call("trust").code == 2


def test_it_is_no_flag_of_a_configuration(call, clean):
    (clean / "fromage.toml").write_text("remove = true\n")
    outcome = call("measure")
    assert outcome.code == 2 and "one call" in outcome.err
