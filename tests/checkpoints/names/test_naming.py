from fromage_cli.checkpoints.names.naming import brief, first_twice, matches, strip_prefixes
from fromage_cli.checkpoints.pickles.placeholders import Global, Placeholder


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
    assert [name for name in names if matches(name, [], [])] == names
    assert [name for name in names if matches(name, ["*.weight"], ["b.*"])] == ["a.weight"]
    assert not any(matches(name, ["c.*"], []) for name in names)


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
