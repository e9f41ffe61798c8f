"""Numbers as the pages of reports write them, and the tables of these pages."""

import re

import numpy as np
from scipy import stats


def interval(values):
    """Mean and 95 % t-interval."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return np.mean(values), low, high


def signed(value):
    return f"{value:+.3f}".replace("-", "−")


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def row_of(page, start):
    """The cells after the first in the row that begins with some words, maybe followed by words in parentheses."""
    [line] = re.findall(rf"^\| {re.escape(start)}(?: \([^|]*\))? \|.*$", page, re.M)
    return cells(line)[1:]
