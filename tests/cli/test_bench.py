"""`throughtime bench`: what it says of made-up measurements, and whom it lets be measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from throughtime.bench import apart as bench_apart
from throughtime.bench import calls as bench_calls
from throughtime.bench import gpu, gpu_right
from throughtime.bench import rivals as bench_rivals
from throughtime.bench.bench_rows import KINDS, Findings, Memory, Row, Times
from throughtime.bench.page import page, ratio_bars
from throughtime.bench.targets import TARGETS, outcomes
from throughtime.errors import CheckError
from throughtime.testing import assert_close

from .conftest import refused

LARGE, SMALL = (16, 100, 512, 512), (8, 1000, 512, 512)


def line(kind: str, layer: str, ratio: float, shape=LARGE, share: float = 0.8) -> Row:
    """Give a line of 10 ms whose ratio is as told, on a machine of 100 GFLOP/s."""
    ours, theirs = Times(0.01, 0.02, 0.02), Times(0.01 * ratio, 0.02, 0.02)
    return Row(kind, layer, shape, ours, theirs, 100 * share, 100.0, 0.5, 9)


def judged(found: Findings, *kinds: str) -> dict[str, tuple[str, str, bool | None]]:
    return {o.what: (o.asked, o.found, o.met) for o in outcomes(found, kinds)}


def test_targets_are_judged_by_geometric_mean_and_by_the_least():
    found = Findings([line("train", "RNN", r, SMALL) for r in (2.0, 8.0, 1.0)])
    table = judged(found, "train")
    kind = KINDS["train"].title
    # The mean, 16^(1/3) = 2.52, is not the arithmetic one of 3.67, which would pass.
    assert table[f"RNN: {kind}, geometric mean"] == ("≥ 3.00", "2.52", False)
    assert table[f"RNN: {kind}, nowhere below"] == ("≥ 1.20", "1.00", False)
    assert table[f"LSTM: {kind}, geometric mean"] == ("≥ 1.30", "not measured", None)
    found.rows = [line("train", "LSTM", r) for r in (0.97, 2.0)]
    table = judged(found, "train")
    assert table[f"LSTM: {kind}, geometric mean"] == ("≥ 1.30", "1.39", True)
    assert table[f"LSTM: {kind}, nowhere below"] == ("≥ 0.97", "0.97", True)


def test_medians_and_first_calls_stand_beside_and_decide_nothing():
    theirs = [Times(0.04, m, f) for m, f in ((0.02, 0.01), (0.08, 0.04))]
    rows = [replace(line("train", "RNN", 4.0), theirs=times) for times in theirs]
    mean, least = outcomes(Findings(rows), ("train",))[:2]
    assert (mean.found, mean.by_medians, mean.by_firsts, mean.met) == ("4.00", "2.00", "1.00", True)
    assert (least.found, least.by_medians, least.by_firsts) == ("4.00", "1.00", "0.50")
    assert "| 4.00 | yes | 2.00 | 1.00 |" in page(Findings(rows), 2, ("train",))


def test_a_turns_first_call_is_told_from_the_others():
    times = Times.of([[5.0, 2.0, 3.0], [4.0, 1.0]])
    assert times == Times(1.0, 3.0, 4.0) and times.times(2) == Times(2.0, 6.0, 8.0)


@pytest.mark.parametrize(("part", "calls"), [(2, 1), (1, 1), (0.4, 3), (0.25, 4)])
def test_a_turn_is_as_many_calls_as_last_it_and_one_at_least(monkeypatch, part, calls):
    command, now = import_module("throughtime.cli.bench"), [0.0]
    monkeypatch.setattr(command, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def call() -> None:
        now[0] += part * command.TURN

    assert command._turn(call) == pytest.approx([part * command.TURN] * calls)


def test_share_of_the_machines_rate_counts_large_float32_training_alone():
    found = Findings([
        line("train", "RNN", 1, LARGE, 0.9),
        line("train", "LSTM", 1, LARGE, 0.64),
        line("train", "RNN", 1, SMALL, 0.1),  # B = 8
        line("train", "GRU", 1, (32, 100, 128, 128), 0.1),  # H = 128
        line("train64", "GRU", 1, LARGE, 0.1),
    ])  # fmt: skip
    (mean, least) = [o for o in outcomes(found, ("train",)) if "share" in o.what]
    assert (mean.asked, mean.found, mean.met) == ("≥ 75 %", "76 %", True)
    assert (least.asked, least.found, least.met) == ("≥ 65 %", "64 %", False)


def test_what_is_better_when_small_is_judged_the_other_way_round():
    found = Findings(
        memory=[Memory("RNN", 50, 100), Memory("GRU", 51, 100), Memory("LSTM", 99, 100)],
        startup=149.0,
    )
    met = [o.met for o in outcomes(found, ("memory", "import"))]
    assert met == [True, False, True, True]
    found.startup = 151.0
    assert outcomes(found, ("import",))[0][1:] == ("≤ 150 ms", "151 ms", False, "—", "—")


def test_every_target_is_of_a_kind_that_is_measured_and_the_layers_together_are_all_lines():
    assert {target.kind for target in TARGETS} == set(KINDS) - {"flashrnn"}
    found = Findings([line("jax", layer, r) for layer, r in (("RNN", 8), ("GRU", 1), ("LSTM", 1))])
    mean, least = outcomes(found, ("jax",))
    assert (mean.found, mean.met, least.found, least.met) == ("2.00", True, "1.00", True)
    found.refused = {"jax": ["LSTM (1, 2, 3, 4): weight_hh: apart"]}
    assert [o.met for o in outcomes(found, ("jax",))] == [False, False]


def test_page_shows_losses_absences_and_refusals_as_plainly_as_wins():
    found = Findings(
        [line("train", "RNN", 0.5), line("jax", "RNN", 3.0)],
        [Memory("RNN", 60, 100)], 80.0,
        {"jax": ["GRU (1, 2, 3, 4): weight_hh: the gradients are 0.3 of their norm apart"]},
        {"flashrnn": "flashrnn is not installed; 'pip install flashrnn' brings it"},
        {"jax": "JAX had two threads."},
    )  # fmt: skip
    text = page(found, 2)
    top = text[: text.index("## Training step")]
    assert "| RNN: training step, float32, geometric mean | ≥ 3.00 | 0.50 | **no** |" in top
    assert "| import of the package, beyond torch's own, at most | ≤ 150 ms | 80 ms | yes |" in top
    assert "| RNN: no gradient" not in top and "not measured | — |" in top
    assert "JAX ms" in text and "JAX had two threads." in text
    assert "No speed for GRU (1, 2, 3, 4): weight_hh" in text and "some refused | **no**" in top
    assert "Not measured: flashrnn is not installed" in text
    assert "0.50" in ratio_bars(found.rows) and KINDS["jax"].title in ratio_bars(found.rows)


# --- whom it measures ------------------------------------------------------------------------


def rival_of(kind: str, layer: str):
    return bench_calls.calls(kind, layer, (3, 7, 5, 6))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].ragged])
def test_both_sides_of_a_ragged_line_find_the_same_gradients(monkeypatch, kind):
    found, step = [], bench_calls._step

    def recorded(model, x, call, g):
        step(model, x, call, g)
        found.append([x.grad.clone(), *(p.grad.clone() for p in model.parameters())])

    monkeypatch.setattr(bench_calls, "_step", recorded)
    for side in rival_of(kind, "LSTM"):
        side()
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs, rtol=1e-5, name=kind)


@pytest.mark.parametrize("kind", ["jax", "flashrnn"])
@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
def test_rivals_gradients_agree(kind, layer):
    if find_spec(kind) is None:
        pytest.skip(f"no {kind} here to compare with")
    ours, theirs = rival_of(kind, layer)
    ours(), theirs()


@pytest.mark.parametrize("term", ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "input"])
@pytest.mark.parametrize("wrong", ["off", "nan", "absent", "shape"])
def test_rival_that_disagrees_gets_no_speed(monkeypatch, term, wrong):
    def rival(layer, weights, x, g):
        leaves = {**weights, "input": x}

        def gradients():
            given = {name: leaf.grad.clone() for name, leaf in leaves.items()}
            if wrong == "off":  # by 2e-3 of its norm
                given[term] *= 1.002
            elif wrong == "nan":
                given[term].view(-1)[0] = torch.nan
            elif wrong == "shape":
                given[term] = given[term][:1]
            else:
                del given[term]
            return given

        return bench_rivals.Rival(lambda: None, gradients)

    monkeypatch.setitem(bench_rivals.RIVALS, "jax", rival)
    with pytest.raises(CheckError, match=term):
        rival_of("jax", "LSTM")


def test_agreement_allows_what_float32_explains():
    w = torch.randn(50, 50)
    bench_rivals.agree({"w": w}, {"w": w * (1 + 1e-4)})


def test_jax_that_is_not_installed_is_one_sentence(run, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("throughtime.bench.rivals.find_spec", lambda name: None)
    refused(run("bench", "--only", "jax"), "jax is not installed", "pip install jax")
    assert not (tmp_path / "benchmarks").exists()


def test_package_that_breaks_when_imported_is_named(monkeypatch, tmp_path: Path):
    (tmp_path / "flashrnn.py").write_text("raise OSError('no CUDA here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flashrnn", raising=False)
    assert "OSError: no CUDA here" in bench_rivals.absent("flashrnn")


def test_unknown_kind_is_refused(run):
    refused(run("bench", "--only", "train,tpu"), "tpu", "train64")


@pytest.fixture
def small(monkeypatch):
    """Make a run of it short, and leave JAX's threads alone."""
    command = import_module("throughtime.cli.bench")
    monkeypatch.setattr(command, "SHAPES", ((2, 5, 3, 4),))
    monkeypatch.setattr(command, "hold_threads", lambda threads: None)
    monkeypatch.setattr(bench_apart, "startup", partial(bench_apart.startup, times=1))


def test_run_writes_page_and_figure_and_says_the_same_as_json(run, small, tmp_path: Path):
    code, out, _ = run("bench", "--only", "train,import", "--seconds", "0.1", "--json")
    found = json.loads(out)
    assert code == 0 and [row["layer"] for row in found["rows"]] == ["RNN", "GRU", "LSTM"]
    assert all(
        row["ratio"] == row["theirs"]["least"] / row["ours"]["least"] for row in found["rows"]
    )
    assert found["startup"] > 0 and found["targets"][-1]["asked"] == "≤ 150 ms"
    text = (tmp_path / "benchmarks" / "RESULTS.md").read_text()
    assert "## What was asked" in text and "torch.nn ms" in text
    assert (tmp_path / "benchmarks" / "results.svg").read_text().startswith("<svg")


def test_run_ends_with_1_where_a_comparison_was_refused(run, small, monkeypatch, tmp_path: Path):
    def wrong(layer, weights, x, g):
        return bench_rivals.Rival(lambda: None, lambda: {"weight_ih": torch.zeros(1)})

    monkeypatch.setitem(bench_rivals.RIVALS, "jax", wrong)
    for name in ("absent", "rival_note"):
        monkeypatch.setattr(f"throughtime.cli.bench.{name}", lambda kind: "")
    code, _, err = run("bench", "--only", "jax", "--seconds", "0.1")
    assert code == 1 and "gradients disagree" in err
    assert "No speed for RNN (2, 5, 3, 4)" in (tmp_path / "benchmarks" / "RESULTS.md").read_text()


def test_without_a_gpu_one_sentence_says_so(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(run("bench", "--device", "cuda"), "There is no GPU here; nothing was measured.")
    refused(run("bench", "--device", "tpu"), "--device must be cpu or cuda")


def test_the_table_of_a_gpu_runs_dry_and_leaves_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(type(gpu_right.TRITON), "missing", lambda self: "it is slow.")
    monkeypatch.setattr(gpu, "DRY", gpu.DRY[:1])
    monkeypatch.setattr(torch, "compile", lambda cell, **_: cell)  # it takes its time
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    assert gpu.run_all(tmp_path, dry=True)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    right = [row for row in rows if row["table"].startswith("Right, against")]
    assert {(row["engine"], row["right"]) for row in right} == {
        ("torch", "yes"), ("triton", "not there"),
    }  # fmt: skip
    steps = [row for row in rows if row["table"] == "A training step"]
    assert not [row for row in steps if "failed" in row]
    ours = [row for row in steps if row["who"] == "throughtime"]
    assert {row["what"] for row in ours} == {"all steps", "ragged", "resets"}
    assert all(
        row["apart"] == 0 for row in ours if row["engine"] == "torch" and row["what"] != "resets"
    )
    assert all(row["agrees"] == "yes" for row in steps)
    assert all("TF32" in row["case"] or "bfloat16" in row["case"] for row in steps)
    said = (tmp_path / "gpu.md").read_text()
    assert "times mean nothing" in said and "TF32: named with each case" in said


def test_a_run_that_is_late_says_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(type(gpu_right.TRITON), "missing", lambda self: "it is slow.")
    gpu.run_all(tmp_path, dry=True, minutes=0)
    assert "and what follows" in (tmp_path / "gpu.md").read_text()
