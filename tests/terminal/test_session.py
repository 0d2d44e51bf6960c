import pytest

from fromage_cli.terminal import session


@pytest.mark.parametrize(
    ("origin", "typed"), [("command line", True), ("environment", False), ("project", False), ("default", False)]
)
def test_what_was_typed_is_told_from_what_is_configured(origin, typed):
    assert session.typed("momentum")  # where no command runs
    with session.scope():
        session.begin(session.Session("norms", origins={"momentum": origin}))
        assert session.typed("momentum") is typed
    assert session.typed("momentum")
