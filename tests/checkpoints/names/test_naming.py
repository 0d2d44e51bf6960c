from fromage_cli.checkpoints.names.naming import brief, first_twice, matches
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
