"""What several commands in a row learn of the same files: within `reads_shared`, none of them reads it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_KEPT: ContextVar[dict[object, Any] | None] = ContextVar("learnt of files", default=None)


@contextmanager
def reads_shared(*, share: bool = True) -> Iterator[None]:
    """Within it, what is learnt of a file is kept; with `share=False` nothing is, even where it was before."""
    token = _KEPT.set({} if share else None)
    try:
        yield
    finally:
        _KEPT.reset(token)


def are_shared() -> bool:
    """Tell whether anything is kept at present."""
    return _KEPT.get() is not None


def kept() -> dict[object, Any]:
    """Return what is kept, by keys that hold a file's version; without sharing an empty dictionary, kept by nobody."""
    known = _KEPT.get()
    return {} if known is None else known
