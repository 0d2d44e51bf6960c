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


def test_the_network_and_the_data_as_they_were_typed():
    settings = {"model": "a.py:build", "model_arg": ["n=1", "name=a b"], "batch": "b.pt", "loss": "auto", "key": None}
    origins = dict.fromkeys(settings, session.COMMAND_LINE) | {"loss": "default", "batch": "project"}
    with session.scope():
        session.begin(session.Session(settings=settings, origins=origins))
        assert session.typed_problem() == " --model a.py:build --model-arg n=1 --model-arg 'name=a b'"
    with session.scope():
        assert session.typed_problem() == ""
