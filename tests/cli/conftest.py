from dataclasses import dataclass

import pytest

import scripted  # noqa: F401 (registers the recipe "corners")
from saccade.cli import main


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def saccade(tmp_path, monkeypatch, capsys):
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        capsys.readouterr()
        code = main(words)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run
