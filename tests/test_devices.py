"""What the package does where the model lives on a GPU equals what it does on the CPU.

Each test runs on both; where there is no GPU the other half is skipped, and says so.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from oracles.loop import KINDS, B, H, I, T
from throughtime.testing import assert_close, check_cell, check_kernel

pytestmark = pytest.mark.usefixtures("float64")

CALLS = ("plain", "hx", "lengths", "reset")
THROUGH = {
    "full": tt.Full(),
    "truncated": tt.Truncated(every=2, window=4),
    "checkpointed": tt.Checkpointed(every=2),
}


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    """Give each device in turn."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.device(request.param)


def layer(kind: str, **options) -> nn.Module:
    torch.manual_seed(1)
    return getattr(tt, kind)(I, H, **options)


def data(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu")


def arguments(call: str, kind: str, layers: int, device) -> dict[str, object]:
    """Give what the layer is called with besides its input."""
    if call == "hx":
        h = data(layers, B, H, seed=3).to(device)
        return {"hx": (h, 2 * h) if kind == "LSTM" else h}
    if call == "lengths":
        return {"lengths": [6, 2, 4]}
    if call == "reset":
        return {"reset": (data(T, B, seed=4) > 0.6).to(device)}
    return {}


def trained(module: nn.Module, call: str, kind: str, device) -> dict[str, torch.Tensor]:
    """Give output, states and every gradient of one call, on the CPU."""
    module = module.to(device)
    x = data(T, B, I).to(device).requires_grad_()
    output, states = module(x, **arguments(call, kind, module.num_layers, device))
    states = states if isinstance(states, tuple) else (states,)
    weight = data(*output.shape, seed=5).to(device)
    ((output * weight).sum() + sum(s.square().sum() for s in states)).backward()
    found = {f"grad {name}": p.grad for name, p in module.named_parameters()}
    found |= {f"state {i}": s.detach() for i, s in enumerate(states)}
    found |= {"output": output.detach(), "dE/dx": x.grad}
    assert all(t.device.type == device.type for t in found.values())
    return {name: t.cpu() for name, t in found.items()}


def same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], rtol: float = 1e-12) -> None:
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert_close(got[name].cpu(), tensor.cpu(), rtol=rtol, name=name)


@pytest.mark.parametrize("through", THROUGH)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_train_as_the_reference_on_the_cpu(kind, call, through, device):
    both = through != "truncated" and call != "hx"
    made = [
        layer(kind, num_layers=2, bidirectional=both, through=THROUGH[through]) for _ in range(2)
    ]
    with tt.kernels.use("reference"):
        want = trained(made[0], call, kind, torch.device("cpu"))
    same(trained(made[1], call, kind, device), want)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_train_as_torchs_own_on_the_same_device(kind, device):
    mine, theirs = layer(kind, num_layers=2).to(device), getattr(nn, kind)(I, H, 2).to(device)
    theirs.load_state_dict(mine.state_dict())
    for module in (mine, theirs):
        module(data(T, B, I).to(device))[0].square().sum().backward()
    same({n: p.grad for n, p in mine.named_parameters()},
         {n: p.grad for n, p in theirs.named_parameters()}, rtol=1e-10)  # fmt: skip


def test_packed_sequences_and_lengths_on_the_models_device(device):
    lstm = layer("LSTM").to(device)
    x, lengths = data(T, B, I).to(device), torch.tensor([6, 2, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    from_packed, _ = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0])
    assert_close(lstm(x, lengths=lengths.to(device))[0], from_packed, rtol=1e-12, name="output")


@pytest.mark.parametrize("kind", KINDS)
def test_streams_and_shares_of_rows(kind, device):
    found = {}
    for where in ("cpu", device):
        module, x = layer(kind).to(where), data(2 * T, B, I).to(where)
        outputs = [module(piece)[0].detach() for piece in tt.stream(module, x, window=5)]
        with tt.per_sample_grads(module):
            module(x, lengths=[3, 12, 7])[0].square().sum().backward()
        shares = {n: p.grad_sample for n, p in module.named_parameters()}
        found[where] = {"outputs": torch.cat(outputs), **shares}
    same(found[device], found["cpu"])


@pytest.mark.parametrize("kind", KINDS)
def test_flow_and_verdict(kind, device, tmp_path):
    found = {}
    for where in ("cpu", device):
        torch.manual_seed(1)
        model = nn.ModuleDict({"rnn": getattr(nn, kind)(I, H, 2), "out": nn.Linear(H, 1)})
        model.to(where)
        with tt.trace(model) as trace:
            h, _ = model["rnn"](data(T, B, I).to(where))
            losses = model["out"](h).square().mean((1, 2))
        flow = trace.flow(losses)
        one = flow["rnn.l0"]
        found[where] = {
            "norms": one.norms,
            "term": one.weight_grad("weight_hh", loss=T - 1, step=2),
            "lyapunov": one.lyapunov(),
            "singular values": one.singular_values(T),
            "bound": one.bound(T, 2, tight=kind != "RNN"),
            "product": one.jacobian_product(T, 2),
            "profile": one.lag_profile(),
        }
        assert str(tt.diagnose(flow)["rnn.l1"].verdict)
        tt.write_report(flow, tmp_path / f"{torch.device(where).type}.html")
        assert flow.html()
    same(found[device], found["cpu"], rtol=1e-9)


def test_a_nan_is_found_where_it_began(device):
    lstm = nn.LSTM(I, H).to(device)
    x = data(T, B, I).to(device)
    x[3, 1, 2] = torch.nan
    with tt.trace(lstm) as trace:
        loss = lstm(x)[0].square().mean((1, 2))
    found = trace.flow(loss)["l0"].first_nonfinite
    assert found is not None and (found.step, found.row) == (4, 1)


def test_a_recurrence_of_ones_own_and_real_time_learning(device):
    def step(x_t, s, W):
        return torch.tanh(x_t @ W.T + 0.5 * s)

    found = {}
    for where in ("cpu", device):
        W = data(H, I, seed=6).to(where).requires_grad_()
        own = tt.Recurrent(tt.cells.Function(step, I, H, weights={"W": W}))
        own = own.to(where)
        x = data(40, B, I).to(where)
        own(x)[0].square().sum().backward()
        cell = tt.cells.GRU(I, H, device=where)
        with torch.no_grad():
            for weight in cell.parameters():
                weight.copy_(data(*weight.shape, seed=7))
        steps = tt.rtrl(cell, x[:5], lambda t, h: h.square().sum())
        total = None
        for _ in steps:
            total = steps.total
        found[where] = {f"own {n}": p.grad for n, p in own.named_parameters()}
        found[where] |= {f"rtrl {n}": grad for n, grad in total.items()}
    assert any(name.startswith("own") for name in found["cpu"])
    same(found[device], found["cpu"], rtol=1e-10)


@pytest.mark.parametrize(
    "cell", [tt.cells.GRU, tt.cells.MinGRU, tt.cells.LayerNormLSTM, tt.cells.PeepholeLSTM]
)
def test_cells_are_checked_wherever_they_live(cell, device):
    check_cell(cell(3, 4, device=device))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_half_weights(kind, device):
    module = layer(kind, dtype=torch.float32).to(device)
    x = data(T, B, I).float().to(device)
    want = module(x)[0]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = module(x)[0]
        got.float().square().sum().backward()
    assert_close(got.detach().float(), want.detach(), rtol=0.05, name="output")
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters())


def test_devices_that_differ_are_one_sentence(device):
    if device.type == "cpu":
        pytest.skip("takes two devices")
    lstm = layer("LSTM").to(device)
    with pytest.raises(tt.errors.DeviceError, match="move one"):
        lstm(data(T, B, I))
    with pytest.raises(tt.errors.DeviceError, match="reset is on cpu"):
        lstm(data(T, B, I).to(device), reset=torch.zeros(T, B, dtype=torch.bool))
    said = tt.kernels.choice(tt.cells.LSTM.over({n[:-3]: p for n, p in lstm.named_parameters()}))
    assert "no compiled kernel" in said.reason and "cuda" in said.reason


def test_nothing_lands_on_the_default_device(tmp_path):
    """A model on the CPU works where new tensors go elsewhere unless told: to the meta device."""
    with torch.device("meta"):
        for kind in KINDS:
            lstm = nn.ModuleDict({"rnn": getattr(tt, kind)(I, H, device="cpu")})
            x = data(T, B, I)
            trained(lstm["rnn"], "lengths", kind, torch.device("cpu"))
            both = getattr(tt, kind)(I, H, 2, bidirectional=True, device="cpu")
            trained(both, "lengths", kind, torch.device("cpu"))
            with tt.per_sample_grads(lstm):
                lstm["rnn"](x, lengths=[6, 2, 4])[0].square().sum().backward()
            for piece in tt.stream(lstm, x, window=4):
                assert lstm["rnn"](piece)[0].is_cpu
            with tt.trace(lstm) as trace:
                losses = lstm["rnn"](x)[0].square().mean((1, 2))
            flow = trace.flow(losses)
            assert flow["rnn.l0"].lyapunov(2).isfinite().all()
            assert str(tt.diagnose(flow)["rnn.l0"].verdict)
            tt.write_report(flow, tmp_path / "flow.html")
            cell = getattr(tt.cells, "Elman" if kind == "RNN" else kind)(3, 4, device="cpu")
            check_cell(cell)
            check_kernel(cell, T=7, B=3, V=2, span="prefix", resets=True)
