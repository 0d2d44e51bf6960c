"""What the stages of the learning-rate study leave: lines of JSON, so that a stage that was stopped goes on."""

import json
from pathlib import Path


class Results:
    """Lines of JSON in a file, one per finished piece of work, looked up by their key."""

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        self.path, self.names = path, key
        self.found: dict[tuple[object, ...], dict[str, object]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._remember(json.loads(line))

    def _remember(self, entry: dict[str, object]) -> None:
        self.found[tuple(entry[name] for name in self.names)] = entry

    def add(self, entry: dict[str, object]) -> dict[str, object]:
        """Keeps an entry, in the file at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._remember(entry)
        return entry


def before_of(folder: Path) -> Results:
    """Rates that the program recommended before this study, of the pairs with five batches; its code is history."""
    return Results(folder / "learning_rate_before.jsonl", ("pair",))


def grid_of(folder: Path) -> Results:
    """The whole runs."""
    return Results(folder / "learning_rate_grid.jsonl", ("pair", "octave", "seed"))


def short_runs_of(folder: Path) -> Results:
    """The short runs."""
    return Results(folder / "learning_rate_runs.jsonl", ("pair", "variant"))
