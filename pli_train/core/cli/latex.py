"""Tables for LaTeX: booktabs rules, numbers aligned at their decimal points by siunitx, and all text escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

PACKAGES = "% \\usepackage{booktabs,siunitx}"
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:e([+-]?)0*(\d+))?")
_UNALIGNED = ("nan", "inf", "-inf")
"""Cells of a column of numbers that have no decimal point to align."""
_ESCAPES = {sign: f"\\{sign}" for sign in "{}$&#%_"} | {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "…": "\\dots{}",
    "−": "$-$",
    "×": "$\\times$",
    "÷": "$\\div$",
    "±": "$\\pm$",
    "→": "$\\rightarrow$",
    "≤": "$\\leq$",
    "≥": "$\\geq$",
    "≈": "$\\approx$",
    "‖": "$\\|$",
    "Δ": "$\\Delta$",
    "σ": "$\\sigma$",
}


def tabular(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Return a table as a `tabular` environment, ending with a newline.

    A column of numbers and empty cells is aligned at the decimal point; any other one is set as text, on the left.

    Args:
        names: names of the columns; underscores become spaces.
        rows: cells of each row, as plain text.

    >>> print(tabular(["part", "loss_change"], [["a_1", "-0.5"], ["b", "12"]]), end="")
    % \usepackage{booktabs,siunitx}
    \begin{tabular}{lS[table-format=-2.1]}
    \toprule
    part & {loss change} \\
    \midrule
    a\_1 & -0.5 \\
    b & 12 \\
    \bottomrule
    \end{tabular}
    """
    if not names:
        return f"{PACKAGES}\n"
    formats = [_format_of([row[column] for row in rows]) for column in range(len(names))]
    kinds = "".join("l" if format is None else f"S[table-format={format}]" for format in formats)
    words = [escape(name.replace("_", " ")) for name in names]
    head = [word if format is None else f"{{{word}}}" for word, format in zip(words, formats, strict=True)]
    body = [
        [_number(cell) if format else escape(cell) for cell, format in zip(row, formats, strict=True)] for row in rows
    ]
    lines = [PACKAGES, f"\\begin{{tabular}}{{{kinds}}}", "\\toprule", _line(head), "\\midrule", *map(_line, body)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def escape(text: str) -> str:
    r"""Return text that LaTeX prints as it is; line breaks become spaces, because an empty line ends a paragraph.

    >>> escape("50 % of a_b"), escape("--out")
    ('50 \\% of a\\_b', '-{}-out')
    """
    plain = "".join(_ESCAPES.get(sign, sign) for sign in " ".join(text.split()))
    return re.sub(r"([-'`,<>])(?=\1)|([?!])(?=`)", r"\1\2{}", plain)  # pairs that fonts have one sign for


def _line(cells: Sequence[str]) -> str:
    """Return a row; a bracket or star at its start would be an argument of the line break before it."""
    start = "{}" if cells[0][:1] in ("[", "*") else ""
    return start + " & ".join(cells) + " \\\\"


def _number(cell: str) -> str:
    """Return a number as siunitx reads it: without zeros at the start of the exponent; a word in braces."""
    mantissa, _, power = cell.partition("e")
    return f"{{{cell}}}" if cell in _UNALIGNED else f"{mantissa}e{int(power)}" if power else cell


def _format_of(cells: Sequence[str]) -> str | None:
    """Return siunitx's format of a column of numbers: most digits before and after the point; None for text."""
    found = [_NUMBER.fullmatch(cell) for cell in cells if cell and cell not in _UNALIGNED]
    if not found or not all(found):
        return None
    parts = [match.groups(default="") for match in found if match]
    whole, rest, power = (max(len(part[place]) for part in parts) for place in (1, 2, 4))
    sign = "-" if any(part[0] for part in parts) else ""
    exponent = f"e{'-' if any(part[3] == '-' for part in parts) else ''}{power}" if power else ""
    return f"{sign}{whole}{f'.{rest}' if rest else ''}{exponent}"
