import re

import pytest

from fromage_cli.checkpoints.names.naming import brief, chosen_names, first_twice, strip_prefixes
from fromage_cli.checkpoints.pickles.placeholders import Global, Placeholder
from fromage_cli.terminal.names import fitted, shown_names


def test_any_value_is_shown_in_a_few_characters_and_steps():
    doubled = ()
    for _ in range(100):
        doubled = (doubled, doubled)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert brief(doubled) == "[a tuple, a tuple]"
    assert brief(deep) == "[a list]"
    assert brief("\x1b[31m") == r"'\x1b[31m'"
    assert brief((1, 2.5, None, True)) == "[1, 2.5, None, …]"
    assert brief(10**4000) == "a int"
    assert brief({1: 2}) == "a dict"
    assert brief(Global("torch", "FloatStorage")) == "torch.FloatStorage"
    assert brief(Placeholder(Global("a", "B"))) == "a Placeholder"
    assert all(len(brief(value)) <= 60 for value in ("x" * 10**6, b"x" * 10**6, ["x" * 100] * 9))


def test_the_first_name_that_comes_twice():
    assert first_twice(["a", "b", "c", "b", "a"]) == "b"
    assert first_twice("abc") is None


def test_globs_choose_by_name():
    names = ["a.weight", "a.bias", "b.weight"]
    assert chosen_names(names, [], []) == set(names)
    assert chosen_names(names, ["*.weight"], ["b.*"]) == {"a.weight"}
    assert chosen_names(names, ["c.*"], []) == set()


LLAMA = [
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(12)
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")
    ),
    "model.norm.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("model.layers.1.mlp.up_proj.weight", ["model.layers.1.mlp.up_proj.weight"]),
        ("layers.1", [name for name in LLAMA if ".1." in name]),
        ("layers.1.self_attn.q_proj", ["model.layers.1.self_attn.q_proj.weight"]),
        ("…0…q_proj", ["model.layers.0.self_attn.q_proj.weight"]),
        ("..10..q_proj", ["model.layers.10.self_attn.q_proj.weight"]),
        ("…1…up_p…", ["model.layers.1.mlp.up_proj.weight"]),
        ("lm_head", ["lm_head.weight"]),
        ("q_proj", [name for name in LLAMA if "q_proj" in name]),
        ("layers.*.mlp", [name for name in LLAMA if ".mlp." in name]),
        ("proj", []),
        ("ayers.1", []),
    ],
)
def test_names_are_taken_as_tables_show_them(glob, found):
    assert chosen_names(LLAMA, [glob], []) == set(found)
    assert chosen_names(LLAMA, [], [glob]) == set(LLAMA) - set(found)


@pytest.mark.parametrize("width", [60, 80])
def test_every_shown_name_finds_its_tensor(width):
    shown = shown_names(LLAMA)
    for name, short in zip(LLAMA, fitted(shown.names, width // 4), strict=True):
        found = chosen_names(LLAMA, [short], [])
        assert name in found, short
        if numbers := re.findall("[0-9]+", name):  # dots stand for anything, but for no digit
            assert all(re.findall("[0-9]+", other) == numbers for other in found), short


def test_wrappers_are_stripped_anywhere_and_told():
    stripped = strip_prefixes(
        ["module._orig_mod.a.weight", "module._orig_mod.b._checkpoint_wrapped_module.weight", "_forward_module.c"]
    )
    assert list(stripped.names) == ["a.weight", "b.weight", "c"]
    assert stripped.names["a.weight"] == "module._orig_mod.a.weight"
    assert set(stripped.prefixes) == {"module.", "_orig_mod.", "_checkpoint_wrapped_module.", "_forward_module."}
    assert stripped.notes == ()


def test_other_names_stay():
    names = ["model.a.weight", "a.module", "modules.b", "my_module.c", "_orig_mod"]
    stripped = strip_prefixes(names)
    assert list(stripped.names) == names
    assert stripped.prefixes == ()


def test_a_prefix_without_which_two_names_would_be_one_is_kept():
    names = ["_orig_mod.module.w", "_orig_mod.w"]
    stripped = strip_prefixes(names)
    assert dict(stripped.names) == {"module.w": "_orig_mod.module.w", "w": "_orig_mod.w"}
    assert stripped.prefixes == ("_orig_mod.",)
    assert "'_orig_mod.module.w'" in stripped.notes[0]
    assert "'module.'" in stripped.notes[0]
