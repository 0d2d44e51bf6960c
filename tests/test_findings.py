from fromage_cli.findings import Finding, about_names, gravest_remedy


def test_a_layer_is_named_once():
    (one, two) = (about_names("code", "info", names, "zeros", "Look.") for names in (["a"], ["a", "b"]))
    assert (one.message, one.layer, one.prefix) == ("zeros: a", "a", "")
    assert (two.message, two.layer, two.prefix) == ("zeros: a, b", None, "")
    assert Finding("code", "info", "it grows", "a").prefix == "a"


def test_the_remedy_is_that_of_the_gravest_which_has_one():
    found = [
        Finding("a", "info", "a", hint="first"),
        Finding("b", "warn", "b", hint="second"),
        Finding("c", "fail", "c"),
        Finding("d", "warn", "d", hint="third"),
    ]
    assert gravest_remedy(found) == "second"
    assert gravest_remedy(found[:1]) == "first" and gravest_remedy(found[2:3]) == gravest_remedy([]) == ""
