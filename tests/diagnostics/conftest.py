"""What the tests of all commands share."""

from collections.abc import Callable

import pytest

from fromage_cli.cli import main


@pytest.fixture
def run(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Calls the command of the test's folder: its exit code, standard output and standard error.

    Pages are so wide that no line breaks, whatever the length of the paths in it; how they break is tested apart.
    """
    command = request.path.parent.name.replace("_", "-")
    monkeypatch.setenv("COLUMNS", "1000")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([command, *map(str, arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call
