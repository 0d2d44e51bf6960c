import json

import pytest


def test_it_prints_a_page_a_row_and_an_envelope(run):
    code, page, err = run("explain", "breakdown-early", "--format", "rich")
    assert (code, err) == (0, "") and page.startswith("breakdown-early · finding\n\nA layer stops helping")
    assert "below 0.001" in page and "What now: Keep ‖ΔW‖ / ‖W‖ of this layer below" in page
    head, row = run("explain", "breakdown-early")[1].splitlines()
    cells = dict(zip(head.split("\t"), row.split("\t"), strict=True))
    assert (cells["name"], cells["kind"], cells["formula"]) == ("breakdown-early", "finding", "")
    result = json.loads(run("explain", "Breakdown_Early", "--json")[1])["result"]
    assert result["kind"] == "finding" and result["meaning"] == cells["meaning"]
    assert result["see"] == ["sure-to", "relative-step", "breakdown"] and result["also"] == []


def test_other_things_of_the_name_are_a_table(run):
    rows = run("explain", "cosine", "--table", "also")[1].splitlines()
    assert (
        rows[0] == "name\tkind\tmeaning"
        and "distance.layers.cosine\tfield\tThe cosine between the weights of the two networks." in rows
    )


def test_a_word_without_end_is_refused_in_short(run):
    code, out, err = run("explain", "a" * 3000)
    assert (code, out) == (2, "") and len(err) < 300 and err.startswith("error: Nothing is called 'aaa")


def test_the_summary_counts_what_there_is(run):
    also = len(run("explain", "cosine", "--table", "also")[1].splitlines()) - 1
    see = len(json.loads(run("explain", "cosine", "--json")[1])["result"]["see"])
    rows = ["name\tvalue\tunit", f"also\t{also}\texplanations", f"see\t{see}\tnames"]
    assert run("explain", "cosine", "--table", "summary")[1].splitlines() == rows
    names = len(run("explain")[1].splitlines()) - 1
    assert run("explain", "--table", "summary")[1].splitlines()[2] == f"names\t{names}\tnames"


def test_without_a_name_it_lists_all(run):
    code, page, _ = run("explain", "--format", "rich")
    assert code == 0 and len(page.splitlines()) < 24 and "Curvature" in page
    rows = run("explain")[1].splitlines()
    assert rows[0] == "group\tname" and "Findings\tbreakdown-early" in rows
    groups = json.loads(run("explain", "--json")[1])["result"]["groups"]
    assert {"title": "Errors", "names": [row.split("\t")[1] for row in rows if row.startswith("Errors")]} in groups


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_an_unknown_word_is_refused_with_the_nearest(run, flags):
    code, out, err = run("explain", "sharpnes", *flags)
    assert code == 2
    assert "Nearest: sharpness" in (json.loads(out)["error"]["hint"] if flags else err)
