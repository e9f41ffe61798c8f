"""Identifiers are standard terms in American spelling, and names of table columns are in one file."""

import ast
import re
from pathlib import Path

import pytest

from pli_analysis import columns

ROOT = Path(__file__).parent.parent
BANNED = frozenset(
    (
        *("told", "tell", "tells", "telling", "settle", "settles", "settled", "settling", "happen", "happens"),
        *("happened", "happening", "apart", "look", "looks", "looked", "looking", "kin", "rooms", "places", "pieces"),
        *("scene", "aftermath", "standing", "stock", "slim", "descent", "paces", "heard"),
    )
)
PHRASES = {"way_out", "no_config", "gradnorms", "watch_callback"}
BRITISH = re.compile(
    r"(initial|quant|token|normal|optim|regular|serial|general|organ|parallel)is(e|ed|es|er|ers|ing|ation|ations)$"
    r"|analys(e|ed|er|ing)$|neighbour|colour|behaviour|centre|favour|grey$|modelling$|labelled$|labelling$"
)
OVERRIDDEN = {"collect_usage_pieces"}
"""Names of overridden library methods."""
NAMES = {value for name, value in vars(columns).items() if name.isupper()}
PICKED = NAMES - {columns.X, columns.Y}  # which plotly's traces have too
TABLES = ("commands", "figures", "metrics", "report", "watch")


def modules(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def words(name):
    """Return the words of an identifier.

    >>> words("_EventTold_apart")
    ['event', 'told', 'apart']
    """
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().strip("_").split("_")


def is_banned(name):
    if name in OVERRIDDEN:
        return False
    return "_".join(words(name)) in PHRASES or any(word in BANNED or BRITISH.search(word) for word in words(name))


def defined(tree):
    """Yield (line, name) of what a module defines: functions, classes, arguments, variables, attributes, aliases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield getattr(node, "lineno", 0), node.asname


def columns_in(tree):
    """Yield (line, column) of literals that select a column of a table: `table["step"]`, `table[["step", "loss"]]`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            picked = node.slice.elts if isinstance(node.slice, ast.List) else [node.slice]
            for each in picked:
                if isinstance(each, ast.Constant) and each.value in PICKED:
                    yield node.lineno, each.value


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", ["pli_train", "pli_analysis", "tests", "examples"])
def test_identifiers_are_standard_terms(folder):
    found = []
    for path in modules(folder):
        names = [(0, path.stem), *defined(parsed(path))]
        found += [f"{path.relative_to(ROOT)}:{line} {name}" for line, name in names if is_banned(name)]
    assert found == []


def test_columns_of_tables_are_not_typed_again():
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in modules(*(f"pli_analysis/{room}" for room in TABLES))
        for line, name in columns_in(parsed(path))
    ]
    assert found == []


def test_no_two_columns_have_one_name():
    names = [value for name, value in vars(columns).items() if name.isupper()]
    assert len(names) == len(set(names)) and not any(map(is_banned, names))


@pytest.mark.parametrize(
    "code",
    [
        "def tell(run): pass",
        "class EventsTold: pass",
        "def f(initialiser): pass",
        "for piece, pieces in x: pass",
        "run.way_out = 1",
        "import numpy as gradnorms",
        "colours = 3",
    ],
)
def test_a_banned_name_is_found(code):
    assert [name for _, name in defined(ast.parse(code)) if is_banned(name)]


def test_a_standard_name_is_not_found():
    code = "class Watcher:\n def noise(self, promise, otherwise): self.in_place = lookup = stocks = 1"
    assert not [name for _, name in defined(ast.parse(code)) if is_banned(name)]


def test_a_column_typed_again_is_found():
    assert [name for _, name in columns_in(ast.parse('x = table["loss"]; y = table[["step", "mine"]]'))] == [
        "loss",
        "step",
    ]
