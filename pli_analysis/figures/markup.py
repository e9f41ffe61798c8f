"""Escape text that plotly would read as markup."""

from __future__ import annotations


def escaped(text: str) -> str:
    """Escape the signs that plotly reads as markup.

    >>> escaped("<b>&")
    '&lt;b&gt;&amp;'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
