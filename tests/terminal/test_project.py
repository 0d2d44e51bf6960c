from fromage_cli.terminal.project import find_project, place


def found(directory):
    project = find_project(directory)
    return project.values, project.source


def test_fromage_toml_comes_before_pyproject_and_nearer_before_farther(clean):
    (clean / "pyproject.toml").write_text("[tool.fromage-diag]\nseed = 1\n")
    inner = clean / "a" / "b"
    inner.mkdir(parents=True)
    assert found(inner) == ({"seed": 1}, clean / "pyproject.toml")
    (clean / "fromage.toml").write_text("seed = 2\n")
    assert found(inner) == ({"seed": 2}, clean / "fromage.toml")
    (clean / "a" / "pyproject.toml").write_text("[project]\nname = 'without our table'\n")
    assert found(inner)[1] == clean / "fromage.toml"
    (clean / "a" / "pyproject.toml").write_text("[tool.fromage-diag]\nseed = 3\n")
    assert found(inner) == ({"seed": 3}, clean / "a" / "pyproject.toml")


def test_links_do_not_hide_where_a_checkpoint_lies(clean):
    run, elsewhere = clean / "run", clean / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "model.pt").touch()
    (run / "fromage.toml").write_text("seed = 9\n")
    (elsewhere / "link.pt").symlink_to(run / "model.pt")
    (clean / "door").symlink_to(run)
    assert find_project(run, [elsewhere / "link.pt"]).source is None
    assert find_project(clean / "door", ["run/model.pt"]).source is None
    assert find_project(run, ["door"]).source is None
    assert find_project(run, ["door/model.pt"]).source is None
    (elsewhere / "fromage.toml").write_text("seed = 8\n")
    assert find_project(elsewhere, ["elsewhere/link.pt"]).source is None


def test_a_place_is_named_as_the_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place(tmp_path / "fromage.toml") == "fromage.toml"
    assert place(tmp_path / "fromage.toml", "norms") == "fromage.toml [norms]"
    assert place(tmp_path / "pyproject.toml") == "pyproject.toml [tool.fromage-diag]"
    assert place(tmp_path / "pyproject.toml", "norms") == "pyproject.toml [tool.fromage-diag.norms]"
