"""Labels of tokens that the text itself gives, for probes.

Of every text:
    casing      `lower`, `upper`, `capitalized` or `mixed` letters of the token; `none` without letters
    previous    the token before it, if it is one of the 32 most frequent ones
    position    which eighth of the block it lies in

Of Python source, read by the lexer of Pygments; a token has the labels of its first character that is not white space:
    kind        `keyword`, `name`, `number`, `string`, `comment`, `operator` or `punctuation`
    brackets    number of open brackets: `0`, `1`, `2`, `3+`
    indentation     indentation of its line in steps of four spaces or a tab: `0`, `1`, `2`, `3`, `4+`
    keyword     the last keyword before it, if it is one of the 16 most frequent ones

A block is read by itself: brackets and keywords before it are not known, and neither is the indentation of its first
line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

CASING, PREVIOUS, POSITION = "casing", "previous", "position"
KIND, BRACKETS, INDENTATION, KEYWORD = "kind", "brackets", "indentation", "keyword"
OF_TEXT = (CASING, PREVIOUS, POSITION)
OF_PYTHON = (KIND, BRACKETS, INDENTATION, KEYWORD)
FREQUENT = {PREVIOUS: 32, KEYWORD: 16}
"""Labels with many values: how many of the most frequent ones are classes."""
PARTS = 8
"""Parts of a block, for `position`."""
STEP = 4
"""Spaces in a step of indentation."""
NONE = -1
"""Class of tokens without the label."""


def labels_of(texts: Sequence[Sequence[str]], ids: np.ndarray, is_python: bool) -> dict[str, np.ndarray]:
    """Return the labels of all tokens: name → classes, (blocks, block_size) int; −1 where a token has none.

    Args:
        texts: the text of each token.
        ids: (blocks, block_size) int, the tokens.
        is_python: whether the text is Python source.
    """
    found = {
        CASING: [[casing_of(text) for text in block] for block in texts],
        PREVIOUS: [[None, *block[:-1]] for block in ids.tolist()],
        POSITION: [[number * PARTS // len(block) for number in range(len(block))] for block in texts],
    }
    if is_python:
        each = [python_labels(block) for block in texts]
        found |= {name: [block[name] for block in each] for name in OF_PYTHON}
    return {name: _numbered(values, FREQUENT.get(name)) for name, values in found.items()}


def _numbered(values: Sequence[Sequence[object]], most: int | None) -> np.ndarray:
    """Return the number of each value, by its frequency; −1 for None and all but the `most` frequent values."""
    counts = Counter(value for block in values for value in block if value is not None)
    numbers = {value: number for number, (value, _) in enumerate(counts.most_common(most))}
    return np.array([[numbers.get(value, NONE) for value in block] for block in values])


def casing_of(text: str) -> str:
    """Return the casing of a token's letters.

    >>> [casing_of(text) for text in (" the", " The", "NASA", "iP", "42", " A")]
    ['lower', 'capitalized', 'upper', 'mixed', 'none', 'capitalized']
    """
    letters = "".join(filter(str.isalpha, text))
    if not letters:
        return "none"
    if letters == letters.lower():
        return "lower"
    if letters[0] != letters[0].lower() and letters[1:] == letters[1:].lower():
        return "capitalized"
    return "upper" if letters == letters.upper() else "mixed"


def python_labels(texts: Sequence[str]) -> dict[str, list[str | None]]:
    r"""Return the labels of the tokens of one block of Python source.

    >>> found = python_labels(["x\n    if", " f", "(", "1", ")", ":"])
    >>> found["kind"], found["keyword"]
    (['name', 'name', 'punctuation', 'number', 'punctuation', 'punctuation'], [None, 'if', 'if', 'if', 'if', 'if'])
    """
    each = list(_of_characters("".join(texts)))
    found: dict[str, list[str | None]] = {name: [] for name in OF_PYTHON}
    start = 0
    for text in texts:
        first = start + len(text) - len(text.lstrip())
        labels = each[first] if text.strip() else (None,) * len(OF_PYTHON)
        for name, label in zip(OF_PYTHON, labels, strict=True):
            found[name].append(label)
        start += len(text)
    return found


def _of_characters(text: str) -> Iterator[tuple[str | None, ...]]:
    """Yield the labels of each character, in the order of `OF_PYTHON`."""
    from pygments.lexers.python import PythonLexer
    from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String

    types = {
        Keyword: "keyword",
        Operator.Word: "keyword",
        Name: "name",
        Number: "number",
        String: "string",
        Comment: "comment",
        Operator: "operator",
        Punctuation: "punctuation",
    }
    indentations = _indentations(text)
    depth, keyword = 0, None
    for _, type, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens_unprocessed(text):
        kind = next((name for known, name in types.items() if type in known), None)
        for character in value:
            if kind == "punctuation" and character in ")]}":
                depth = max(depth - 1, 0)
            yield kind, _at_most(3, depth), next(indentations), keyword
            if kind == "punctuation" and character in "([{":
                depth += 1
        if kind == "keyword":
            keyword = value


def _indentations(text: str) -> Iterator[str | None]:
    """Yield the indentation of each character's line; None for the first line, whose start may be missing."""
    for number, line in enumerate(text.split("\n")):
        shown = line.expandtabs(STEP)
        spaces = len(shown) - len(shown.lstrip(" "))
        yield from [_at_most(4, spaces // STEP) if number else None] * (len(line) + 1)  # and its line break


def _at_most(most: int, number: int) -> str:
    """Return a number in words of a few classes."""
    return str(number) if number < most else f"{most}+"
