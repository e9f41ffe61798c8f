"""ASCII replacements for terminals and locales that cannot print Unicode.

One error handler of Python's codecs does it, for each character that an encoding lacks. Text that can be encoded stays
as it is, so that a UTF-8 terminal sees no difference.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

HANDLER = "pli.ascii"
"""The name of the error handler, as `str.encode` and streams take it."""

WORDS = {
    "→": "->", "←": "<-", "↔": "<->", "↑": "^", "↓": "v",
    "×": "x", "÷": "/", "−": "-", "±": "+/-", "·": ".", "≈": "~", "≤": "<=", "≥": ">=", "≠": "!=", "√": "sqrt",
    "∞": "inf", "∑": "sum", "‖": "||", "⁺": "+", "⁻": "-", "²": "^2", "³": "^3", "½": "1/2", "⊥": "_|_",
    "α": "alpha", "β": "beta", "γ": "gamma", "Δ": "Delta", "δ": "delta", "ε": "epsilon", "η": "eta", "κ": "kappa",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "Σ": "Sigma", "τ": "tau", "χ": "chi",
    "–": "-", "—": "-", "‐": "-", "‑": "-", "…": "...", "•": "*", "§": "section ", "°": " degrees",
    "‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "\N{NO-BREAK SPACE}": " ",
    "µ": "u", "✓": "yes", "✗": "no", "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip
"""What is said in words or signs; the lengths may differ."""

DRAWN = {
    "-": "─━┄╌═╴╶╸╺",
    "|": "│┃║╵╷╹╻",
    "+": "┌┐└┘├┤┬┴┼╭╮╰╯╞╡╪",
    # Eighths of a character from below, as curves have them, and from the left, as the ends of bars.
    "_": "▁", ".": "▂▏▎▍░", ":": "▃▒", "=": "▅▌▋▊▉", "~": "▄", "*": "▆", "%": "▇▓", "#": "█",
}  # fmt: skip
"""What is drawn, character for character, so that tables, bars and curves keep their shape."""

_PLAIN = WORDS | {sign: plain for plain, signs in DRAWN.items() for sign in signs}


def configure() -> None:
    """Give stdout and stderr the error handler, and a place to write to where they are closed.

    A closed descriptor would be given to the next file that is opened, and `print` to a stderr that is None goes to
    stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def utf8(text: str) -> bytes:
    r"""Text as UTF-8, whatever is in it.

    A file's name that is no text (Python has lone surrogates for its bytes) becomes its bytes again, or U+FFFD where
    those are no UTF-8.

    >>> utf8("a → b"), utf8("\udcc3\udcbc"), utf8("\udcff")
    (b'a \xe2\x86\x92 b', b'\xc3\xbc', b'\xef\xbf\xbd')
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode(errors=HANDLER).decode(errors="replace").encode()


def plain(sign: str) -> str:
    r"""A character in ASCII: as it is listed above, else by its compatible form, else by its number.

    >>> [plain(sign) for sign in "→▆₁é"]
    ['->', '*', '1', '\\xe9']
    """
    if sign in _PLAIN:
        return _PLAIN[sign]
    compatible = unicodedata.normalize("NFKD", sign)
    # An accented letter stays apart from the bare one: it may stand in a file's name.
    return compatible if compatible.isascii() else sign.encode("ascii", "backslashreplace").decode()


def _encoded(error: UnicodeError) -> tuple[str | bytes, int]:
    """What the codec puts in place of the first character that it cannot encode, and where it goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    is_byte = 0xDC80 <= ord(sign) <= 0xDCFF  # of a file's name that is no text
    return bytes([ord(sign) - 0xDC00]) if is_byte else plain(sign), error.start + 1


codecs.register_error(HANDLER, _encoded)
