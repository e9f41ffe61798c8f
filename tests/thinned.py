"""Parameters of which the default tests try some, and the slow ones the rest."""

import pytest


def thinned(values, every=3):
    """Return the values as parameters: the first of each `every` for the default tests, the others marked slow."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow if number % every else ()
        )
        for number, value in enumerate(values)
    ]
