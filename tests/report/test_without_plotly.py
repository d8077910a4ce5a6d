"""Without the extra `report` all but figures and pages works, and those say what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SENTENCE = (
    "figures and reports need {}, which cannot be imported (no {} here); "
    "pip install 'throughtime[report]'. Everything else works without."
)
# One process for all of it: to import torch takes most of the time.
SESSION = """
import contextlib, io, json, sys

class Missing:
    names = set()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"no {name} here")

missing = Missing()
sys.meta_path.insert(0, missing)

import torch
import throughtime as tt, throughtime.report.notebook
tt.treat
works = {"drawn in": [name for name in ("plotly", "jinja2", "rich") if name in sys.modules]}
missing.names = {"plotly"}
from throughtime.cli import main

torch.manual_seed(0)
told = {}

def tell(name, call):
    try:
        call()
    except tt.errors.PackageError as error:
        assert isinstance(error, (tt.errors.ThroughTimeError, ImportError))
        told[name] = str(error)
    else:
        told[name] = None

def command(*arguments):
    sys.argv, said = ["throughtime", *arguments], io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            main()
        except SystemExit as end:
            return end.code, said.getvalue().strip(), shown.getvalue()

model = tt.GRU(3, 5)
with tt.Monitor(model, every=1, to="run.jsonl") as monitor:
    for _ in range(2):
        loss = model(torch.randn(7, 2, 3))[0].pow(2).mean()
        monitor.record(loss)
with tt.trace(model) as trace:
    losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
flow = trace.flow(losses)
works["diagnose"] = str(tt.diagnose(flow)["l0"].verdict)
works["examine"] = str(tt.examine(flow))
works["table"] = repr(flow)
works["notebook"] = flow._repr_html_()[:7]
treatment = tt.treat(model, lambda model: model(torch.ones(7, 2, 3))[0].sum(), only=["clip"])

from throughtime.demo import write_demo
tell("write_report", lambda: tt.write_report(flow, "report.html"))
tell("figure", lambda: tt.figure(flow, "lag"))
tell("monitor", monitor.figure)
tell("treatment", treatment.figure)
tell("demo", lambda: write_demo(None, "demo.html"))

open("model.py", "w").write('''
import torch, throughtime as tt
def small():
    return tt.GRU(3, 5), torch.ones(7, 2, 3), lambda m, x: m(x)[0].pow(2).mean((1, 2))
''')
open("text.txt", "w").write("a text " * 500)
commands = {
    "demo": ("--quick",),
    "train": ("--text", "text.txt", "--updates", "1"),
    "profile": ("model.py:small",),
    "treat": ("model.py:small", "--html", "treated.html"),
}
told_by = {name: command(name, *rest) for name, rest in commands.items()}
works["check"] = command("check", "model.py:small")
works["treat"] = command("treat", "model.py:small", "--only", "clip")
works["watch"] = command("watch", "run.jsonl", "--once", "--html", "live.html")
works["explore"] = command("explore", "--out", "explored.html")

missing.names = {"plotly", "jinja2"}
for name in [name for name in sys.modules if name.partition(".")[0] == "jinja2"]:
    del sys.modules[name]
works["notebook without Jinja"] = flow._repr_html_()
from throughtime.report.report import report_html
tell("Jinja", lambda: report_html(flow, brief=True))
told_by["explore"] = command("explore", "--out", "not-written.html")
assert "plotly" not in sys.modules
print(json.dumps([told, told_by, works]))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    """Give what a session without Plotly, and then without Jinja, was told and got."""
    folder = tmp_path_factory.mktemp("without")
    run = subprocess.run(
        [sys.executable, "-B", "-c", SESSION],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    written = {path.name for path in folder.iterdir()}
    assert written == {"model.py", "text.txt", "run.jsonl", "live.html", "explored.html"}, written
    return tuple(json.loads(run.stdout.splitlines()[-1]))


def test_importing_the_package_and_treat_draws_in_no_plotting(session):
    assert session[2]["drawn in"] == []  # all of it was there to be imported


def test_every_figure_and_page_says_in_one_sentence_what_is_missing(session):
    told = dict(session[0])
    assert told.pop("Jinja") == SENTENCE.format("Jinja", "jinja2")
    assert set(told) == {"write_report", "figure", "monitor", "treatment", "demo"}
    assert set(told.values()) == {SENTENCE.format("Plotly", "plotly")}


def test_every_command_that_writes_a_page_says_so_before_it_works(session):
    told_by = dict(session[1])
    without_jinja = f"throughtime: {SENTENCE.format('Jinja', 'jinja2')}"
    assert told_by.pop("explore") == [2, without_jinja, ""]
    assert set(told_by) == {"demo", "train", "profile", "treat"}
    for name, (code, said, shown) in told_by.items():
        assert (code, said) == (2, f"throughtime: {SENTENCE.format('Plotly', 'plotly')}"), name
        assert shown == "", name


def test_what_draws_nothing_works(session):
    works = session[2]
    assert works["diagnose"] and works["examine"] and "l0" in works["table"]
    assert works["notebook"] == "<iframe" and works["notebook without Jinja"] is None
    for name in ("check", "treat", "watch", "explore"):
        code, said, shown = works[name]
        assert code in (0, 1) and "need" not in said and shown, (name, said)
