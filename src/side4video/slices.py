"""Going through a long axis piece by piece, and pretending to.

When memory is being estimated, what is alike need not all be run: it allocates and computes the same. Inside
`pretended` the first and the second of equal pieces stand for all of them, a call that is like an earlier one is not
made, and the one who counts is told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Counter(Protocol):
    """Who counts what is only pretended."""

    def repeated(self, count: int) -> AbstractContextManager[object]:
        """What is done inside stands for `count` times the same."""
        ...

    def alike(self, key: Hashable, function: Callable[[], Result]) -> Result:
        """The result of `function`, or one like it when a function of this key has run before."""
        ...


_counter: Counter | None = None


def pieces(total: int, size: int) -> Iterator[slice]:
    """Slices of `size` (the last may be shorter) that cover `total`; one, when that is not more than `size`."""
    whole = total // size
    if _counter is None or whole < 3:
        for start in range(0, max(total, 1), size):
            yield slice(start, min(start + size, total))
        return
    yield slice(0, size)
    with _counter.repeated(whole - 1):
        yield slice(size, 2 * size)
    if total % size:
        yield slice(whole * size, total)


def alike(key: Callable[[], Hashable], function: Callable[[], Result]) -> Result:
    """`function()`. Calls of one key allocate and compute the same."""
    return function() if _counter is None else _counter.alike(key(), function)


@contextmanager
def pretended(counter: Counter) -> Generator[None]:
    """Inside, equal pieces and calls are left out, and `counter` counts them."""
    global _counter  # noqa: PLW0603 - a switch of the process, like torch's own
    _counter = counter
    try:
        yield
    finally:
        _counter = None
