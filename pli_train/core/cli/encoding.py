"""ASCII replacements for terminals and locales that cannot print Unicode.

An error handler of Python's codecs replaces each character that an encoding lacks. Text that can be encoded is
unchanged, so a UTF-8 terminal sees no difference.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

HANDLER = "pli.ascii"
"""The name of the error handler, for `str.encode` and streams."""

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
"""Replacements by words or signs, which may be longer."""

DRAWN = {
    "-": "─━┄╌═╴╶╸╺",
    "|": "│┃║╵╷╹╻",
    "+": "┌┐└┘├┤┬┴┼╭╮╰╯╞╡╪",
    # Eighth blocks from below, used in curves, and from the left, used at the ends of bars.
    "_": "▁", ".": "▂▏▎▍░", ":": "▃▒", "=": "▅▌▋▊▉", "~": "▄", "*": "▆", "%": "▇▓", "#": "█",
}  # fmt: skip
"""Replacements of drawing characters, one for one, so that tables, bars and curves keep their shape."""

_PLAIN = WORDS | {sign: plain for plain, signs in DRAWN.items() for sign in signs}


def configure() -> None:
    """Set the error handler of stdout and stderr, and open the null device for closed descriptors.

    Otherwise the next opened file would get a closed descriptor's number, and `print` to a stderr that is None would go
    to stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def utf8(text: str) -> bytes:
    r"""Encode any text as UTF-8.

    Lone surrogates, which Python uses for undecodable bytes of file names, become those bytes again, or U+FFFD if they
    are not valid UTF-8.

    >>> utf8("a → b"), utf8("\udcc3\udcbc"), utf8("\udcff")
    (b'a \xe2\x86\x92 b', b'\xc3\xbc', b'\xef\xbf\xbd')
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode(errors=HANDLER).decode(errors="replace").encode()


def plain(sign: str) -> str:
    r"""Return a character in ASCII: its replacement above, or its compatibility form, or its escaped code.

    >>> [plain(sign) for sign in "→▆₁é"]
    ['->', '*', '1', '\\xe9']
    """
    if sign in _PLAIN:
        return _PLAIN[sign]
    compatible = unicodedata.normalize("NFKD", sign)
    # An accented letter is escaped, not replaced by the bare one: file names may differ only in the accent.
    return compatible if compatible.isascii() else sign.encode("ascii", "backslashreplace").decode()


def _encoded(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the replacement of the first character that cannot be encoded, and where to continue."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    is_byte = 0xDC80 <= ord(sign) <= 0xDCFF  # an undecodable byte of a file name
    return bytes([ord(sign) - 0xDC00]) if is_byte else plain(sign), error.start + 1


codecs.register_error(HANDLER, _encoded)
