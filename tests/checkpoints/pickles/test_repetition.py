import pytest

from fromage_cli.checkpoints.pickles.repetition import BASE_LOOKS, LOOKS_PER_ENTRY, Repetition
from fromage_cli.errors import InputError


def test_what_is_there_once_may_be_looked_at_and_what_is_repeated_only_so_often():
    repetition = Repetition()
    for index in range(200_000):
        assert repetition.look([index]) == [index]
    repetition, shared = Repetition(), dict.fromkeys(range(999))
    for _ in range((BASE_LOOKS + LOOKS_PER_ENTRY * 1000) // 1000):
        repetition.look(shared)
    with pytest.raises(InputError, match="many times over"):
        repetition.look(shared)
