"""The engine in JavaScript finds what Python finds for the same weights, and is quick."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from throughtime.explore import Settings
from throughtime.explore.network import drawn, layer
from throughtime.explore.page import ENGINE, HERE, engine_js
from throughtime.explore.texts import readings

from .node import run
from .truth import flow, numbers, product_norm

SETTINGS = [
    Settings("Elman", 1.0, 0.0, "tanh", 5),
    Settings("Elman", 2.0, 0.0, "tanh", 2),
    Settings("Elman", 1.5, 0.0, "relu", 4),
    Settings("Elman", 0.2, 0.0, "sigmoid", 11),
    Settings("Elman", 4.0, 0.0, "identity", 11),
    Settings("LSTM", 1.0, 4.0, "tanh", 5),
    Settings("LSTM", 3.0, -2.0, "tanh", 1),
    Settings("GRU", 1.0, 6.0, "tanh", 5),
    Settings("GRU", 0.5, 0.0, "tanh", 0),
]
BODY = """return settings.map((s, n) => explore(drawn, s, near, texts[n]));"""


def explored(engine: str | None = None, settings: list[Settings] | None = None) -> list[dict]:
    chosen = settings or SETTINGS
    return run(
        BODY,
        engine,
        settings=[vars(one) for one in chosen],
        near=numbers(0),
        texts=[numbers(one.stop) for one in chosen],
    )


@pytest.fixture(scope="module")
def found() -> dict[Settings, dict]:
    return dict(zip(SETTINGS, explored(), strict=True))


def worst(found: dict, settings: Settings) -> float:
    """Give the largest error of the map, each entry relative to its own size."""
    want = flow(settings).norms[:, :, 0]
    got = torch.tensor(found["map"], dtype=torch.float64).view_as(want)
    assert (got[want == 0] == 0).all() and got.isfinite().all() and want[-1, 0] > 0
    return float(((got - want).abs() / want)[want > 0].max())


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.cell}-{s.nonlinearity}-{s.gain}")
def test_every_pair_and_every_bound_is_pythons(found, settings):
    mine, flows = found[settings], flow(settings)
    T = flows.T
    assert worst(mine, settings) < 1e-9
    for k in (T - 1, T // 2, 7, 0):
        assert mine["product"][k] == pytest.approx(product_norm(flows, k), rel=1e-6, abs=0)
        tight = float(flows.bound(T, k, tight=True))
        assert mine["tight"][k] == pytest.approx(tight, rel=1e-6, abs=0)
        assert mine["product"][k] <= mine["tight"][k] * (1 + 1e-9)
    for t in (1, T // 2, T):
        norm = float(torch.linalg.matrix_norm(flows.jacobian(t)[0], 2))
        assert mine["stepNorms"][t] == pytest.approx(norm, rel=1e-6, abs=0)
    if settings.cell == "Elman":
        beta_W, beta_f = layer(settings)[0].cell.gain()
        assert mine["gain"]["betaW"] == pytest.approx(float(beta_W), rel=1e-6, abs=0)
        assert mine["gain"]["betaF"] == beta_f
    else:
        assert mine["gain"] is None


def test_without_webassembly_the_numbers_are_the_same(found):
    plain = run(
        BODY.replace("return ", "return [products === inScript, ").replace(";", "];"),
        "const WebAssembly = undefined;\n" + engine_js(),
        settings=[vars(one) for one in SETTINGS],
        near=numbers(0),
        texts=[numbers(one.stop) for one in SETTINGS],
    )
    assert plain[0] is True
    for settings, mine in zip(SETTINGS, plain[1], strict=True):
        for name in ("map", "product", "tight", "near"):
            want, got = (torch.tensor(one[name]) for one in (found[settings], mine))
            torch.testing.assert_close(got, want, rtol=1e-8, atol=0)
        for format in ("float32", "half"):
            assert mine[format] == found[settings][format]


def test_the_webassembly_is_compiled_from_its_source():
    source = (HERE / "engine" / "products.c").read_bytes()
    assert hashlib.sha256(source).hexdigest() in engine_js(), "products.c changed: `make products`"
    assert run("return compiled !== null && products !== inScript;") is True


def test_the_near_text_is_read_by_the_same_network(found):
    settings = SETTINGS[0]
    want = flow(Settings("Elman", 1.0, 0.0, "tanh", 0)).norms[-1, :, 0]
    assert found[settings]["near"] == pytest.approx(want.tolist(), rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("name", "line", "wrong", "settings"),
    [
        ("lstm", "kept[4 * H + n] * f * (1 - f), byG", "0, byG", SETTINGS[6]),
        ("gru", "out[i * H + i] += z", "out[i * H + i] += 0", SETTINGS[7]),
        ("sweeps", "delta[p + H] * tail[H + i]", "delta[p + H]", SETTINGS[5]),
        ("elman", "kept[i] = slope(state[i])", "kept[i] = 1", SETTINGS[0]),
    ],
)
def test_a_broken_engine_is_seen(name, line, wrong, settings):
    text = (HERE / "engine" / f"{name}.js").read_text(encoding="utf-8")
    assert name in ENGINE and line in text
    broken = engine_js().replace(text, text.replace(line, wrong))
    assert worst(explored(broken, [settings])[0], settings) > 1e-3


def test_half_precision_rounds_as_torch_does():
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(4000, generator=generator, dtype=torch.float64)
    powers = torch.randint(-30, 20, (4000,), generator=generator)
    edges = [0.0, 65504.0, 65519.9, 65520.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-24, 2.0**-14, 2049.0,
             2051.0, 1 - 2.0**-12, float("inf"), 3e-8, 2.9e-8]  # fmt: skip
    values = torch.cat((spread * 2.0**powers, torch.tensor(edges, dtype=torch.float64)))
    values = torch.cat((values, -values))
    # By way of numpy, which rounds once; torch rounds to float32 first.
    with np.errstate(over="ignore"):
        want = values.numpy().astype(np.float16).astype(np.float64)
    given = [str(v) for v in values.tolist()]
    got = run("return given.map((v) => toHalf(Number(v.replace('inf', 'Infinity'))));", given=given)
    assert [float(v) for v in got] == want.tolist()


def half_oracle(settings: Settings) -> tuple[int | None, int | None]:
    """Give the steps at which a linear network's states are inf, then NaN, in half precision."""
    recurrent, words = layer(settings)
    weights = recurrent.cell.weights()
    W = weights["weight_hh"].detach().numpy().astype(np.float16).astype(np.float32)
    drive = (words[numbers(settings.stop)] @ weights["weight_ih"].detach().T).numpy()
    s, inf, nan = np.zeros(32, np.float32), None, None
    with np.errstate(all="ignore"):
        for t, x in enumerate(drive, 1):
            total = np.zeros(32, np.float32)
            for j in range(32):
                total += W[:, j] * s[j]
            a = x.astype(np.float16).astype(np.float64) + total.astype(np.float16)
            s = a.astype(np.float16).astype(np.float32)
            inf = inf or (t if np.isinf(s).any() else None)
            nan = nan or (t if np.isnan(s).any() else None)
    return inf, nan


def test_in_half_precision_inf_comes_first_and_then_nan():
    settings = Settings("Elman", 2.5, 0.0, "identity", 5)
    half = explored(settings=[settings])[0]["half"]
    inf, nan = half_oracle(settings)
    assert inf is not None and nan is not None and inf < nan
    assert half["inf"] == {"way": "forward", "step": inf}
    assert half["nan"] == {"way": "forward", "step": nan}


def test_float32_overflows_where_the_text_is_long_enough(found):
    mine = found[Settings("Elman", 4.0, 0.0, "identity", 11)]["float32"]
    assert mine["inf"]["way"] == "forward" and 55 <= mine["inf"]["step"] < 75
    assert mine["nan"] is None or mine["nan"]["step"] >= mine["inf"]["step"]


def test_half_precision_ends_in_zero_without_a_word(found):
    mine = found[Settings("Elman", 0.2, 0.0, "sigmoid", 11)]
    zero = mine["half"]["zero"]
    assert zero is not None and 7 < zero < 75 and mine["half"]["norms"][zero] == 0
    assert mine["half"]["norms"][zero + 1] > 0 and mine["map"][-1 - 75 + zero] > 0
    assert mine["half"]["inf"] is None and mine["half"]["nan"] is None


def test_an_update_of_32_units_and_40_steps_is_quick(capsys):
    """16 ms is what 60 updates a second leave; the limit is wide, since machines are shared."""
    text = (numbers(7) * 2)[:40]
    spent = run(
        """const spent = [];
        for (let i = 0; i < 30; i++) {
          const before = process.cpuUsage().user;
          explore(drawn, { ...settings, gain: 1 + i / 50 }, near, text);
          spent.push((process.cpuUsage().user - before) / 1000);
        }
        return spent.sort((a, b) => a - b);""",
        near=numbers(0),
        text=text,
        settings=vars(Settings("LSTM", bias=1.0)),
    )
    with capsys.disabled():
        print(f"\nLSTM, 32 units, 40 steps: {spent[0]:.1f} ms; {spent[15]:.1f} in the middle")
    assert spent[0] < 60


def test_every_text_has_john_where_it_says():
    texts = readings()
    assert all(len(text.words) - text.mention == 8 + text.between for text in texts)
    assert all(text.words[text.mention - 1] == "John" for text in texts)
    assert [text.between for text in texts] == sorted({text.between for text in texts})
    assert texts[5].between == 19 and drawn().W_h.shape == (128, 32)
