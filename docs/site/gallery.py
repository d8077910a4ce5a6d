"""Write the pages of the gallery: reports on a few models, and the demo, as a reader gets them.

python docs/site/gallery.py FOLDER

Run with the package; the site is built without it. Each function below is one entry: its docstring
is what the gallery says of it, its code what the gallery shows.
"""

from __future__ import annotations

import inspect
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import throughtime as tt
from throughtime.report.figures import draw
from throughtime.report.still import still_svg
from throughtime.tasks import Mention


def default_lstm() -> dict:
    """A default LSTM, asked at the end.

    One hundred steps, one loss on the last output. Nothing is wrong with the code, and the first
    89 steps get almost nothing.
    """
    model = nn.LSTM(8, 64)
    with tt.trace(model) as trace:
        loss = model(torch.randn(100, 16, 8))[0][-1].pow(2).mean()
    return {"flow": trace.flow(loss)}


def before_and_after() -> dict:
    """The same, before and after chrono biases.

    Two layers of different runs on one page.
    """

    def measured(model: nn.LSTM) -> tt.LayerFlow:
        with tt.trace(model) as trace:
            loss = model(torch.randn(100, 16, 8))[0][-1].pow(2).mean()
        return trace.flow(loss)["l0"]

    chrono = tt.remedies.chrono_(nn.LSTM(8, 64), longest=100)
    return {"flow": {"default": measured(nn.LSTM(8, 64)), "chrono": measured(chrono)}}


def a_loss_at_every_step() -> dict:
    """Two layers, a loss at every step.

    Every step gets its share, and yet no single loss reaches far: a note, not a warning. The map
    shows each pair of loss and step.
    """
    model = nn.GRU(8, 32, num_layers=2)
    with tt.trace(model) as trace:
        losses = model(torch.randn(60, 8, 8))[0].pow(2).mean((1, 2))
    return {"flow": trace.flow(losses)}


def the_two_sentences() -> dict:
    """Two sentences about John, word by word.

    "Jane walked into the room. John walked in too. … Jane said hi to ___": the words are shaded by
    the gradient that reaches them from the question at the end.
    """
    task = Mention()
    text = task.text(27, random.Random(3))
    words = torch.tensor([[task.vocabulary.index(word)] for word in text.words])
    embed, rnn, readout = nn.Embedding(len(task.vocabulary), 16), nn.GRU(16, 32), nn.Linear(32, 8)
    model = nn.ModuleList((embed, rnn, readout))
    with tt.trace(model) as trace:
        loss = nn.functional.cross_entropy(readout(rnn(embed(words))[0][-1]), torch.tensor([0]))
    return {"flow": trace.flow(loss), "words": text.words}


def explodes() -> dict:
    """A gain that is too large.

    An identity recurrence whose W_h is 1.2 times an orthogonal matrix: over sixty steps the
    gradient grows beyond what clipping leaves of it.
    """
    rnn = tt.RNN(4, 32, nonlinearity="identity")
    tt.remedies.orthogonal_(rnn, gain=1.2)
    with tt.trace(rnn) as trace:
        loss = rnn(torch.randn(60, 4, 4))[0][-1].pow(2).mean()
    return {"flow": trace.flow(loss)}


def a_missing_value() -> dict:
    """A missing value in the data.

    One NaN in one row, and where it went from there.
    """
    x = torch.randn(20, 8, 4)
    x[11, 3, 2] = torch.nan
    rnn = nn.GRU(4, 16)
    with tt.trace(rnn) as trace:
        loss = rnn(x)[0].pow(2).mean()
    return {"flow": trace.flow(loss)}


def remedies_tried() -> dict:
    """Remedies tried on copies, each measured again.

    What `throughtime treat` writes: which change helps this model, and the line to paste.
    """
    model, x = nn.LSTM(8, 32), torch.randn(60, 8, 8)
    treatment = tt.treat(model, lambda model: model(x)[0][-1].pow(2).mean(), lag=50)
    return {"flow": treatment.flow, "treatment": treatment}


ENTRIES: tuple[Callable[[], dict], ...] = (
    default_lstm, before_and_after, a_loss_at_every_step, the_two_sentences, explodes,
    a_missing_value, remedies_tried,
)  # fmt: skip


def entry(make: Callable[[], dict], folder: Path) -> dict[str, str]:
    """Write one report and return what the gallery's page says of it."""
    torch.manual_seed(0)
    found = make()
    title, _, says = inspect.getdoc(make).partition("\n\n")
    name = make.__name__.replace("_", "-")
    tt.write_report(path=folder / f"{name}.html", title=title.rstrip("."), **found)
    flow = found["flow"]
    kind = "overview" if len(flow) > 1 else "lag"
    layer = {} if len(flow) > 1 else {"layer": next(iter(flow))}
    figure = still_svg(draw(flow, kind, **layer), id=name, width=440)
    code = textwrap.dedent(inspect.getsource(make).split('"""', 2)[2]).strip()
    return {"name": name, "title": title.rstrip("."), "says": " ".join(says.split()),
            "figure": figure, "code": code}  # fmt: skip


def command(folder: Path, name: str, *arguments: str) -> bool:
    """Run one of the package's commands that write a page; False where it has no such command."""
    from throughtime.cli import COMMANDS

    if name not in {command.name for command in COMMANDS}:
        return False
    page = str(folder / f"{name}.html")
    subprocess.run(
        [sys.executable, "-m", "throughtime", name, *arguments, "--out", page],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return True


def main(folder: Path) -> None:
    """Write all pages and what the gallery lists."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [entry(make, folder) for make in ENTRIES]
    pages = [name for name, more in (("demo", ["--quick"]), ("explore", []))
             if command(folder, name, *more)]  # fmt: skip
    listed = {"entries": entries, "pages": pages}
    (folder / "entries.json").write_text(json.dumps(listed), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
