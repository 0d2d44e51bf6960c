import pytest

from fromage_cli.diagnostics import COMMANDS
from fromage_cli.errors import UsageError
from fromage_cli.own_commands import OWN_COMMANDS
from fromage_cli.reference.explanations import explanations
from fromage_cli.reference.lookup import look_up


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("breakdown-early", "breakdown-early"),
        ("Breakdown_Early", "breakdown-early"),
        ("relative step", "relative-step"),
        ("LEMMA-2", "lemma-2"),
        ("suggest-lr.limit.eta", "suggest-lr.limit.eta"),
        ("SUGGEST_LR.limit.eta", "suggest-lr.limit.eta"),
        ("breakdown.layers[].cosine", "breakdown.layers.cosine"),
        ("layers[3].implied_depth", "breakdown.layers.implied_depth"),
        ("implied_step", "implied-step"),
        ("usage", "error.usage"),
        ("no-model", "reason.no-model"),
        ("7", "exit-code.7"),
        ("exit_codes", "exit-codes"),
        ("batch_sharpness", "batch-sharpness"),
        ("trust", "trust"),
        ("η", "relative-step"),
        ("eta", "relative-step"),
        ("λ", "weight-decay"),
        ("Lambda", "weight-decay"),
        ("Lemma–2", "lemma-2"),
        ("siblings", "siblings"),
        ("group", "parameter-group"),
        ("sure step", "sure-as-a-whole"),
        ("sure", "sure-as-a-whole"),
        ("moves most", "moves-most"),
    ],
)
def test_a_word_is_found_however_it_is_spelled(word: str, name: str) -> None:
    assert look_up(word).name == name


def test_every_name_is_found_by_itself() -> None:
    for name, one in explanations().items():
        assert look_up(name).name == one.name


def test_a_field_of_several_commands_lists_them() -> None:
    found = look_up("limiting_layer")
    assert (found.kind, found.name) == ("field", "limiting-layer")
    assert {"breakdown.limiting_layer", "suggest-lr.limit.limiting_layer"} <= {one.name for one in found.also}
    assert found.meaning == f"{len(found.also)} fields of the JSON have this name."
    same = look_up("batch_size")
    assert len(same.also) > 1 and {one.kind for one in same.also} == {"field"}


def test_a_term_comes_before_fields_and_a_finding_before_a_reason() -> None:
    cosine = look_up("cosine")
    assert cosine.kind == "term" and "distance.layers.cosine" in {one.name for one in cosine.also}
    both = look_up("no-equilibrium")
    assert both.kind == "finding" and [one.name for one in both.also] == ["reason.no-equilibrium"]
    assert look_up("reason.no-equilibrium").also == ()


@pytest.mark.parametrize(("word", "near"), [("lema-2", "lemma-2"), ("treshold", "threshold"), ("cosin", "cosine")])
def test_an_unknown_word_names_the_nearest(word: str, near: str) -> None:
    with pytest.raises(UsageError, match=word) as refused:
        look_up(word)
    assert near in refused.value.hint and "lists all topics" in refused.value.hint


@pytest.mark.parametrize("name", COMMANDS | OWN_COMMANDS)
def test_every_command_has_an_explanation(name: str) -> None:
    found = look_up(name)
    assert "command" in {found.kind, *(one.kind for one in found.also)}
    lines = [one.example for one in explanations().values() if one.kind == "command"]
    assert any(line and line.startswith(f"fromage-diag {name} ") for line in lines)


def test_a_letter_names_the_fields_of_that_name_too() -> None:
    assert "suggest-lr.limit.eta" in {one.name for one in look_up("η").also}


def test_a_word_without_end_is_cut() -> None:
    with pytest.raises(UsageError) as refused:
        look_up("a" * 3000)
    assert len(refused.value.message) < 130 and "…" in refused.value.message


def test_a_word_like_nothing_names_none_and_is_harmless() -> None:
    with pytest.raises(UsageError) as refused:
        look_up("\x1b[31mqqqqqqqqqqqqqqqq")
    assert "\x1b" not in refused.value.message and refused.value.hint.startswith("fromage-diag explain lists")
