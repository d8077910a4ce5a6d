"""The explorer as a widget: in JupyterLab in a headless browser, and its two ways of telling."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest

from explore.chrome import chrome
from explore.truth import flow
from throughtime.explore import Settings

from .packages import package

package("anywidget")

CELLS = (
    "from throughtime.explore.widget import Explorer\nw = Explorer(cell='LSTM', bias=2.0)\nw",
    "print('found', w.gain, w.bias, w.far)",
    "w.gain = 0.5",
)
FRAME = "document.querySelector('.jp-OutputArea iframe')?.contentDocument"


def far(settings: Settings) -> float:
    return float(flow(settings).norms[-1, 7, 0])


def test_the_widget_holds_the_page_with_its_settings():
    from throughtime.explore.widget import Explorer

    widget = Explorer(cell="GRU", bias=3.0, language="zh", height=500)
    data = re.search(r'id="explore-data">(.+?)</script>', widget.html)
    assert data is not None
    told = json.loads(data[1])
    assert told["settings"] == vars(Settings("GRU", 1.0, 3.0, "tanh", 5))
    assert told["language"] == "zh" and widget.far is None and widget.height == 500
    with pytest.raises(Exception, match="Elman"):
        Explorer(cell="transformer")


@contextlib.contextmanager
def lab(folder):
    """Lend JupyterLab on a notebook with the cells; give its address."""
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
        "cells": [
            {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [],
             "execution_count": None, "source": source}
            for n, source in enumerate(CELLS)
        ],
    }  # fmt: skip
    (folder / "n.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--allow-root",
         "--ip=127.0.0.1", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True",
         "--LabApp.news_url=", f"--ServerApp.root_dir={folder}"],
        env={**os.environ, **own, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api").close()
                break
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def run_cell(browser) -> None:
    browser.js("jupyterapp.commands.execute('notebook:run-cell-and-select-next').then(() => 1)")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(find_spec("jupyterlab") is None, reason="JupyterLab is not installed")
def test_in_jupyterlab_the_page_and_python_tell_each_other(tmp_path):
    with lab(tmp_path) as address, chrome() as browser:
        browser.open(f"{address}/lab/tree/n.ipynb?reset")
        browser.wait("window.jupyterapp && document.querySelectorAll('.jp-CodeCell').length === 3")
        browser.wait("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel", 60)
        run_cell(browser)
        browser.wait(f"{FRAME}?.documentElement?.dataset.shown >= 1", 60)
        browser.js(
            f"(() => {{ const one = {FRAME}.getElementById('gain'); one.value = 1.5;"
            "one.dispatchEvent(new Event('input')); })()"
        )
        browser.wait(f"{FRAME}.documentElement.dataset.shown >= 2")
        browser.wait("new Promise((yes) => setTimeout(() => yes(1), 1000))")
        run_cell(browser)
        printed = "document.querySelectorAll('.jp-CodeCell')[1].innerText"
        browser.wait(f"{printed}.includes('found 1.5')")
        gain, bias, arrives = browser.js(printed).split("found ")[-1].split()[:3]
        assert (float(gain), float(bias)) == (1.5, 2.0)
        want = far(Settings("LSTM", 1.5, 2.0, "tanh", 5))
        assert float(arrives) == pytest.approx(want, rel=1e-6, abs=0)
        run_cell(browser)
        browser.wait(f"{FRAME}.getElementById('gain-value').textContent === '0.50'")
        browser.wait(f"{FRAME}.documentElement.dataset.shown >= 3")
        value = browser.js(f"{FRAME}.getElementById('far-arrives').dataset.value")
        want = far(Settings("LSTM", 0.5, 2.0, "tanh", 5))
        assert float(value) == pytest.approx(want, rel=1e-6, abs=0)
