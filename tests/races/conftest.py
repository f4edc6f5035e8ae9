"""The fixture that explores, with and without bugs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import pytest

from tests.races import explorer
from tests.races.copies import Copy, Mutant

#: How long the orders of more than two threads are tried, in seconds.
SECONDS = 3.0
#: How long a bug is looked for; it is found sooner, but for a busy machine.
BUG_SECONDS = 60.0


@pytest.fixture
def explore(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that runs threads in every order.

    It takes what makes their state of a copy of the package, the threads, and *then*,
    which must be true of the state after them. All orders of two threads are tried,
    and of more as many as a few seconds allow; of two as well if not *complete*.

    With a bug in the copy, see :func:`~tests.races.bugs.finds`, it must fail.
    """
    mutant: Optional[Mutant] = getattr(request, "param", None)

    def explore(
        setup: Callable[[Copy], Any],
        *threads: Callable[[Any], Any],
        then: Callable[[Any], Any],
        complete: bool = True,
    ) -> None:
        seconds = SECONDS if mutant is None else BUG_SECONDS
        explored = explorer.explore(
            lambda: setup(Copy(mutant)), threads, then, seconds, complete
        )
        if mutant is not None:
            assert explored.failure is not None, f"not found: {mutant}"
            print(explored.failure)
            return
        assert explored.failure is None, explored.failure
        assert explored.complete or explored.threads > 2 or not complete
        assert explored.executions > 1, "there is one order only"
        print(explored)

    return explore
