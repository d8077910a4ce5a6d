"""The command as a user meets it: one run, and what a refusal looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from throughtime import cli

TEXT = "the cat sat on the mat and the dog sat on the log. " * 60
# A character model that is trained in no time.
SMALL = ["--hidden", "12", "--window", "16", "--rows", "4", "--every", "5", "--sample", "20"]


@pytest.fixture
def run(monkeypatch, capfd, tmp_path: Path):
    """Run the command in an empty folder: give exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "text.txt").write_text(TEXT)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["throughtime", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        code = ended.value.code
        return int(code or 0), out, err

    return command


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Check for one clear line on stderr, nothing on stdout, and exit code 2."""
    code, out, err = result
    assert code == 2 and out == "" and "Traceback" not in err
    assert err.startswith("throughtime: ") and err.count("\n") == 1
    for word in words:
        assert word in err
