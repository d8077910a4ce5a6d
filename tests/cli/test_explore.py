"""`throughtime explore`: one page, whole or not at all."""

from __future__ import annotations

import json

from .conftest import refused


def test_the_page_is_written_and_told(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("explore", "--out", "page.html", "--language", "zh", "--json")
    told = json.loads(out)
    assert code == 0 and err == "" and told["page"] == "page.html"
    assert told["bytes"] == (tmp_path / "page.html").stat().st_size < 1_000_000
    code, out, _ = run("explore")
    assert code == 0 and "throughtime-explore.html" in out


def test_what_cannot_be_shown_is_refused_before_a_page_is_there(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.json").write_text("[]")
    refused(run("explore", "--flow", "no.json"), "expected a flow")
    refused(run("explore", "--flow", "missing.json"), "cannot read")
    refused(run("explore", "--language", "fr"), "'en' or 'zh'")
    refused(run("explore", "--out", "no/page.html"), "does not exist")
    assert not list(tmp_path.glob("*.html")) and not list(tmp_path.glob(".*"))
