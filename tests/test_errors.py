import pytest

from fromage_cli import errors
from fromage_cli.errors import FromageError, InputError

CODES = {
    "FromageError": (1, "bug"),
    "UsageError": (2, "usage"),
    "InputError": (3, "input"),
    "UnsafeError": (4, "unsafe"),
    "MismatchError": (5, "mismatch"),
    "NumericalError": (6, "numerics"),
    "NotFiniteError": (6, "numerics"),
    "ResourceError": (7, "resources"),
    "OutOfMemory": (7, "resources"),
}
"""By class, the exit code that scripts rely on and the code in the envelope."""


def test_every_failure_has_its_exit_code() -> None:
    family = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    }
    assert {name: (kind.exit_code, kind.code) for name, kind in family.items()} == CODES
    assert all(issubclass(kind, FromageError) for kind in family.values())


def test_an_error_is_its_message_with_a_hint_and_details() -> None:
    with pytest.raises(InputError, match="it is cut off") as caught:
        raise InputError("it is cut off", "copy it again", ["a", "b"])
    assert (caught.value.message, caught.value.hint, caught.value.details) == (
        "it is cut off", "copy it again", ("a", "b"),
    )  # fmt: skip
    assert (InputError("x").hint, InputError("x").details) == ("", ())
