"""How a test says which bugs it finds."""

from __future__ import annotations

import pytest

from tests.races.copies import Mutant


def finds(*bugs: tuple[str, str, str]) -> pytest.MarkDecorator:
    """Have the test run on the package, and with each of *bugs*, where it must fail.

    A bug is a module, a text that is in it once, and another instead.
    """
    mutants = [Mutant(*one) for one in bugs]
    names = ["as it is", *(f"bug {number}" for number, _ in enumerate(mutants, 1))]
    return pytest.mark.parametrize(
        "explore", [None, *mutants], ids=names, indirect=True
    )
