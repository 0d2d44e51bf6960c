from fromage_cli.counting import counted, first_names


def test_one_is_singular_and_any_other_number_plural() -> None:
    assert [counted(number, "step") for number in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


def test_a_few_names_and_a_sign_for_the_others() -> None:
    assert first_names("abc") == "a, b, c"
    assert first_names(["a", "b", "c", "d"]) == "a, b, c …"
