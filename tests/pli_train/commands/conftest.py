"""Calls of `pli-train` in this process."""

import sys

import pytest

from pli_train import cli


@pytest.fixture
def typed(monkeypatch, capfd, tmp_path):
    """Type a command in an empty folder: `typed("sweep", …)` → (exit code, stdout, lines of stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["pli-train", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capfd.readouterr()
        return done.value.code, out, err.splitlines()

    return call
