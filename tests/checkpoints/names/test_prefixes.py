from fromage_cli.checkpoints.names.prefixes import strip_prefixes


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
