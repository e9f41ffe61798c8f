"""Tables for LaTeX, read back by a reader of its own: no sign is lost, and none has a meaning in LaTeX."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pli_train.core.cli.latex import escape, tabular
from pli_train.core.cli.tables import Format, render

COMMANDS = {
    "textbackslash": "\\",
    "textasciicircum": "^",
    "textasciitilde": "~",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "dots": "…",
}
MATH = {"-": "−", r"\times": "×", r"\div": "÷", r"\pm": "±", r"\rightarrow": "→", r"\leq": "≤", r"\geq": "≥"} | {
    r"\approx": "≈",
    r"\|": "‖",
    r"\Delta": "Δ",
    r"\sigma": "σ",
}
NASTY = st.text(alphabet="ab1 -'`?!,<>|\\{}$&#%_^~[]*\"\n\t−×→…σ", max_size=12)
TOKEN = re.compile(r"\\([a-zA-Z]+)\{\}|\\([{}$&#%_])|\$([^$]+)\$|(\{\})|([^\\{}$&#%_^~<>|])", re.S)


def printed(text):
    """Return what LaTeX prints for a text; a sign with a meaning, or a pair that becomes one sign, is an error."""
    out, at = "", 0
    while at < len(text):
        found = TOKEN.match(text, at)
        assert found, f"{text[at:]!r} has a meaning"
        command, escaped, math, _, plain = found.groups()
        if plain:
            assert text[at : at + 2] not in ("--", "''", "``", ",,", "<<", ">>", "?`", "!`")
        out += COMMANDS[command] if command else escaped or (MATH[math] if math else plain or "")
        at = found.end()
    return out


@settings(max_examples=300, deadline=None)
@given(NASTY)
@example("--set a_b=[1, 2] # 50 %")
@example("''")
def test_an_escaped_text_is_printed_as_it_is(text):
    assert printed(escape(text)) == " ".join(text.split())


def cells_of(table):
    """Return column kinds and rows of cells of a table, its lines split as LaTeX does."""
    lines = table.splitlines()
    assert lines[0] == "% \\usepackage{booktabs,siunitx}"
    assert [lines[2], lines[4], *lines[-2:]] == ["\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}"]
    kinds = re.findall(r"l|S\[table-format=[^]]*\]", re.fullmatch(r"\\begin\{tabular\}\{(.*)\}", lines[1])[1])
    rows = [lines[3], *lines[5:-2]]
    assert all(row.endswith(" \\\\") and row[0] not in "[*" for row in rows)
    return kinds, [re.split(r"(?<!\\) ?& ", row.removesuffix(" \\\\")) for row in rows]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(NASTY.filter(lambda text: not re.search(r"\d", text)), min_size=2, max_size=2), min_size=1, max_size=3
    )
)
@example([["[0]", "x"], ["*", "[1]"]])
def test_a_table_of_texts_is_read_back(rows):
    kinds, (_, *found) = cells_of(tabular(["one", "two"], rows))
    expected = [[" ".join(cell.split()) for cell in row] for row in rows]
    texts = [place for place in range(2) if kinds[place] == "l"]
    assert all(all(not row[place] for row in expected) for place in range(2) if place not in texts)
    assert [[printed(row[place]).strip() for place in texts] for row in found] == [
        [row[place] for place in texts] for row in expected
    ]


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.none(),
    st.just(float("inf")),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(NUMBERS, min_size=1, max_size=6).filter(
        lambda column: any(value not in (None, float("inf")) for value in column)
    )
)
def test_a_column_of_numbers_has_room_for_all_digits_and_the_same_values(column):
    kinds, (head, *found) = cells_of(render([{"name": "x", "loss_change": value} for value in column], Format.LATEX))
    assert head == ["name", "{loss change}"] and kinds[0] == "l"
    sign, whole, rest, power = re.fullmatch(r"S\[table-format=(-?)(\d+)(?:\.(\d+))?(?:e-?(\d+))?\]", kinds[1]).groups()
    for value, (_, cell) in zip(column, found, strict=True):
        if value is None:
            assert cell == ""
        elif value == float("inf"):
            assert cell == "{inf}"
        else:
            assert float(cell) == float(f"{value:.6g}" if isinstance(value, float) else value)
            minus, before, after, exponent = re.fullmatch(r"(-?)(\d+)(?:\.(\d+))?(?:e-?([1-9]\d*))?", cell).groups()
            assert len(minus) <= len(sign) and len(before) <= int(whole)
            assert len(after or "") <= int(rest or 0) and len(exponent or "") <= int(power or 0)


@pytest.mark.parametrize("rows", [[], [{"a": None}]])
def test_a_table_without_values_has_no_column_of_numbers(rows):
    table = render(rows, Format.LATEX)
    assert "S[" not in table and table.endswith("\n")
