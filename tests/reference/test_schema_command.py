import json

from jsonschema import Draft202012Validator

from fromage_cli.reference.schema import schema_of, schema_of_all


def test_it_prints_the_schema_itself_whatever_the_format(run, tmp_path):
    for flags in ((), ("--json",), ("--format", "tsv"), ("--format", "rich")):
        code, out, err = run("schema", "distance", *flags)
        assert (code, json.loads(out), err) == (0, schema_of("distance"), "")
    assert json.loads(run("schema")[1]) == schema_of_all()
    kept = tmp_path / "bundle.schema.json"
    assert run("schema", "bundle", "-o", str(kept))[0] == 0
    assert json.loads(kept.read_text()) == schema_of("bundle")


def test_an_answer_fits_the_schema_that_is_printed(run):
    schema = json.loads(run("schema", "explain")[1])
    validator = Draft202012Validator(schema)
    for words in (("explain", "cosine"), ("explain",), ("explain", "nothing-of-that-name")):
        validator.validate(json.loads(run(*words, "--json")[1]))


def test_an_unknown_command_is_refused_with_the_nearest(run):
    code, out, err = run("schema", "sharpnes")
    assert (code, out) == (2, "") and "'sharpnes'" in err and "Nearest: sharpness" in err
    assert json.loads(run("schema", "sharpnes", "--json")[1])["error"]["code"] == "usage"


def test_fields_and_their_number_are_tables(run):
    code, out, err = run("schema", "distance", "--table", "fields")
    header, *rows = out.splitlines()
    assert (code, err, header) == (0, "", "field\tmeaning")
    assert rows and all(row.startswith("distance.") and row.split("\t")[1] for row in rows)
    summary = run("schema", "distance", "--table", "summary")[1].splitlines()
    assert summary == ["name\tvalue\tunit", "commands\t1\tcommands", f"fields\t{len(rows)}\tfields"]
    assert len(run("schema", "--table", "fields")[1].splitlines()) > 900
