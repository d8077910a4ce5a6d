"""Opacus on this package's layers, against Opacus's own recurrent modules and one row at a time."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

import throughtime as tt
from throughtime.integrations.opacus import register
from throughtime.kernels import by_row
from throughtime.testing import assert_close

opacus = pytest.importorskip("opacus", reason="Opacus is not installed: pip install opacus")
from opacus import GradSampleModule, PrivacyEngine  # noqa: E402
from opacus.layers import DPGRU, DPLSTM, DPRNN  # noqa: E402
from opacus.utils.batch_memory_manager import BatchMemoryManager  # noqa: E402
from opacus.validators import ModuleValidator  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # Opacus says these of every model.
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
]

F64 = torch.float64
T, B, I, H = 7, 4, 3, 5
KINDS = {"LSTM": (nn.LSTM, DPLSTM), "GRU": (nn.GRU, DPGRU), "RNN": (nn.RNN, DPRNN)}
SHAPES = {
    "one layer": {},
    "without bias": {"bias": False},
    "rows first": {"batch_first": True},
    "two layers, both ways": {"num_layers": 2, "bidirectional": True},
}


@pytest.fixture(autouse=True)
def registered():
    register()


def draw(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Model(nn.Module):
    """A layer that is read at every step and in its final state, and a readout."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(I, I, dtype=F64)
        self.layer, self.readout = layer, nn.Linear(width, 2, dtype=F64)

    def forward(self, x, **options):
        h, final = self.layer(self.embed(x), **options)
        final = final[0] if isinstance(final, tuple) else final
        rows_first = getattr(self.layer, "batch_first", False)
        steps = h.pow(2).mean(1 if rows_first else 0)
        return self.readout(
            torch.tanh(steps + final.reshape(-1, len(steps), H).pow(3).sum(0).sum(1, keepdim=True))
        )


def pair(kind: str, **options):
    """Return a model with this package's layer and one with Opacus's, over equal weights."""
    torch.manual_seed(0)
    theirs, dp = KINDS[kind]
    layer = theirs(I, H, dtype=F64, **options)
    width = H * (2 if options.get("bidirectional") else 1)
    ours = tt.convert(Model(layer, width))
    other = copy.deepcopy(ours)
    other.layer = dp(I, H, **options).to(F64)
    other.layer.load_state_dict(layer.state_dict())
    return ours, other


def named(model):
    return dict(model.named_parameters())


def loss_of(out, reduction):
    rows = out.pow(3).sum(1)
    return rows.mean() if reduction == "mean" else rows.sum()


def shares(model, x, reduction="mean", *, batch_first=True, **options):
    wrapped = GradSampleModule(model, batch_first=batch_first, loss_reduction=reduction)
    loss_of(wrapped(x, **options), reduction).backward()
    return {name: p.grad_sample for name, p in model.named_parameters()}


def alone(model, x, **options):
    """Return the gradient of each row's own loss, taken with a batch of that row."""
    model = copy.deepcopy(model)
    found = []
    rows_first = getattr(model.layer, "batch_first", False)
    for b in range(B):
        model.zero_grad()
        row = x[b : b + 1] if rows_first else x[:, b : b + 1]
        own = {name: value[b : b + 1] for name, value in options.items()}
        loss_of(model(row, **own), "sum").backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return {name: torch.stack([row[name] for row in found]) for name in found[0]}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_are_those_of_opacus_own_modules(kind, shape, reduction):
    options = SHAPES[shape]
    rows_first = options.get("batch_first", False)
    ours, theirs = pair(kind, **options)
    x = draw(B, T, I) if rows_first else draw(T, B, I)
    want_alone = alone(ours, x)
    if rows_first:
        got, want = shares(ours, x, reduction), shares(theirs, x, reduction)
    else:  # Opacus has one axis for all modules, and the readout's rows come first
        got = {n: p for n, p in shares(ours, x, reduction).items() if n.startswith("layer")}
        want = shares(theirs, x, reduction)
    for name, share in got.items():
        assert_close(share, want[name], rtol=1e-10, name=name)
        assert_close(share, want_alone[name], rtol=1e-10, name=f"{name}, row by row")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_different_lengths_are_packed_in_any_order_or_padded(kind, reduction):
    def make():
        return pair(kind, num_layers=2, bidirectional=True, batch_first=True)

    ours, theirs = make()
    x, lengths = draw(B, T, I), torch.tensor([7, 5, 2, 1])
    order = torch.tensor([2, 0, 3, 1])

    def packed(model, x, lengths, enforce_sorted):
        wrapped = GradSampleModule(model, loss_reduction=reduction)
        given = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=enforce_sorted)
        final = wrapped._module.layer(given)[1]
        h_n = final[0] if isinstance(final, tuple) else final
        loss_of(h_n.sum(0), reduction).backward()
        return {n: p.grad_sample for n, p in model.layer.named_parameters()}

    got, want = (packed(model, x, lengths, True) for model in (ours, theirs))
    for name, share in got.items():
        assert_close(share, want[name], rtol=1e-10, name=name)
    mixed = packed(make()[0], x[order], lengths[order], False)
    for name, share in got.items():
        assert_close(mixed[name], share[order], rtol=1e-10, name=f"{name}, unsorted")
    fresh = make()[0]
    padded = GradSampleModule(fresh, loss_reduction=reduction)
    final = padded._module.layer(x, lengths=lengths)[1]
    loss_of((final[0] if isinstance(final, tuple) else final).sum(0), reduction).backward()
    for name, p in fresh.layer.named_parameters():
        assert_close(p.grad_sample, got[name], rtol=1e-10, name=f"{name}, padded")


def test_a_batch_taken_in_pieces_trains_alike():
    """`BatchMemoryManager` clips and adds up pieces of a batch before the one step."""
    found = []
    for most in (3, 100):
        model = classifiers("LSTM")[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        wrapped, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=optimizer,
            data_loader=DataLoader(DATA, batch_size=8),
            noise_multiplier=0.0,
            max_grad_norm=0.1,
            poisson_sampling=False,
        )
        pieces = BatchMemoryManager(
            data_loader=loader, max_physical_batch_size=most, optimizer=optimizer
        )
        with pieces as loader:
            for x, y in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(wrapped(x), y.long()).backward()
                optimizer.step()
        found.append(model.state_dict())
    for name, w in found[0].items():
        assert_close(w, found[1][name], rtol=1e-10, name=name)


class Gated(nn.Module):
    """A step of one's own, with modules that Opacus would otherwise hook."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.n = nn.Linear(I + H, H, dtype=F64), nn.Linear(I + H, H, dtype=F64)

    def forward(self, x, s):
        f = torch.sigmoid(self.f(torch.cat((x, s), 1)))
        return s + f * (torch.tanh(self.n(torch.cat((x, f * s), 1))) - s)


CELLS = {
    "LSTM": lambda: tt.cells.LSTM(I, H),
    "layer-norm LSTM": lambda: tt.cells.LayerNormLSTM(I, H),
    "minGRU": lambda: tt.cells.MinGRU(I, H),
    "a module as step": lambda: tt.cells.Function(Gated(), I, H),
}
SCHEDULES = [tt.Full(), tt.Checkpointed(2), tt.Truncated(3)]


@pytest.mark.parametrize("through", SCHEDULES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_any_cell_under_any_schedule(cell, through):
    layer = tt.Recurrent(CELLS[cell]().to(F64), through=through, batch_first=True)
    model = Model(layer, H)
    x = draw(B, T, I)
    want = {}
    for b in range(B):
        model.zero_grad()
        loss_of(state_free(model, x[b : b + 1]), "sum").backward()
        for name, p in model.named_parameters():
            want.setdefault(name, []).append(p.grad.clone())
    wrapped = GradSampleModule(model)
    loss_of(state_free(wrapped._module, x), "mean").backward()
    for name, p in model.named_parameters():
        assert_close(p.grad_sample, torch.stack(want[name]), rtol=1e-10, name=name)


def state_free(model, x):
    return model.readout(model.layer(model.embed(x))[0].pow(2).mean(1))


class Classifier(nn.Module):
    """What people train: the last state, read out."""

    def __init__(self, layer) -> None:
        super().__init__()
        self.layer, self.readout = layer, nn.Linear(H, 2, dtype=F64)

    def forward(self, x):
        final = self.layer(x)[1]
        return self.readout((final[0] if isinstance(final, tuple) else final)[-1])


def classifiers(kind):
    theirs, dp = KINDS[kind]
    torch.manual_seed(0)
    ours = tt.convert(Classifier(theirs(I, H, 2, batch_first=True, dtype=F64)))
    other = Classifier(dp(I, H, 2, batch_first=True).to(F64))
    other.layer.load_state_dict(ours.layer.state_dict())
    other.readout.load_state_dict(ours.readout.state_dict())
    return ours, other


DATA = TensorDataset(draw(24, T, I), torch.arange(24) % 2)


def trained(model, *, reduction="mean", mode="hooks", rate=8, updates=4, lr=0.5, **options):
    """Train privately from fixed seeds and return the sizes of the batches."""
    # The noise is drawn in the optimizer's order, which is not that of Opacus's own modules.
    optimizer = torch.optim.SGD([p for _, p in sorted(model.named_parameters())], lr=lr)
    criterion = nn.CrossEntropyLoss(reduction=reduction)
    torch.manual_seed(3)
    private = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        criterion=criterion,
        data_loader=DataLoader(DATA, batch_size=rate),
        noise_multiplier=0.5,
        max_grad_norm=0.1,
        loss_reduction=reduction,
        grad_sample_mode=mode,
        noise_generator=torch.Generator().manual_seed(5),
        **options,
    )
    wrapped, optimizer, *rest = private
    loader, loss = rest[-1], rest[0] if len(rest) == 2 else criterion
    sizes = []
    while len(sizes) < updates:
        for x, y in loader:
            optimizer.zero_grad()
            loss(wrapped(x), y.long()).backward()
            optimizer.step()
            sizes.append(len(x))
    return sizes


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_make_private_trains_as_with_opacus_own_modules(kind, reduction):
    ours, theirs = classifiers(kind)
    before = copy.deepcopy(ours.state_dict())
    assert trained(ours, reduction=reduction) == trained(theirs, reduction=reduction)
    want = theirs.layer.state_dict()
    for name, w in ours.layer.state_dict().items():
        moved, should = w - before[f"layer.{name}"], want[name] - before[f"layer.{name}"]
        assert_close(moved, should, rtol=1e-8, name=name)


@pytest.mark.parametrize("mode", ["functorch", "ghost"])
def test_the_other_modes_train_alike(mode):
    ours, same = classifiers("LSTM")[0], classifiers("LSTM")[0]
    before = copy.deepcopy(ours.state_dict())
    trained(ours, mode=mode)
    trained(same)
    for name, w in ours.state_dict().items():
        assert_close(w - before[name], same.state_dict()[name] - before[name], rtol=1e-8, name=name)


def test_a_batch_that_poisson_sampling_leaves_empty():
    for kind in KINDS:
        ours, theirs = classifiers(kind)
        sizes = trained(ours, rate=1, updates=24)
        assert 0 in sizes and max(sizes) > 1
        assert sizes == trained(theirs, rate=1, updates=24)
        assert_close(ours.layer.weight_hh_l1, theirs.layer.weight_hh_l1, rtol=1e-8)


def test_an_initial_state_with_a_graph_and_a_layer_called_twice_share_a_weight():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.begin = nn.Linear(2, H, dtype=F64)
            self.one, self.two = tt.GRU(I, H, dtype=F64), tt.GRU(H, H, dtype=F64)
            self.two.weight_hh_l0 = self.one.weight_hh_l0

        def forward(self, z, x):
            h_0 = self.begin(z)[None]
            h, h_n = self.one(x, h_0)
            again, _ = self.one(x.flip(0), h_n, reset=torch.arange(T * h.shape[1]).view(T, -1) > 9)
            return self.two(h + again)[0].pow(2).mean(0)

    model, z, x = Twice(), draw(B, 2), draw(T, B, I)
    wrapped = GradSampleModule(model)
    wrapped(z, x).sum(1).mean().backward()
    total = {name: p.grad * B for name, p in named(model).items()}
    for name, p in named(model).items():
        assert_close(p.grad_sample.sum(0), total[name], rtol=1e-10, name=name)
    assert "begin.weight" in total


def test_backward_passes_before_a_step_are_batches_of_their_own():
    model = tt.LSTM(I, H, dtype=F64)
    wrapped, x = GradSampleModule(model, batch_first=False), draw(T, B, I)
    for rows in (x, x[:, :2]):
        wrapped(rows)[0].pow(2).sum((0, 2)).mean().backward()
    first, second = model.weight_hh_l0.grad_sample
    assert (len(first), len(second)) == (B, 2)
    assert_close(first[:2], second, rtol=1e-12)
    wrapped.zero_grad()
    wrapped.forbid_grad_accumulation()
    wrapped(x)[0].sum().backward()
    with pytest.raises(ValueError, match="BatchMemoryManager"):
        wrapped(x)[0].sum().backward()


def test_only_calls_in_training_are_collected_and_all_of_it_can_be_taken_off():
    layer = tt.LSTM(I, H, batch_first=True, dtype=F64)
    wrapped, x, weight = GradSampleModule(layer), draw(B, T, I), layer.weight_hh_l0
    wrapped.eval()
    wrapped(x)[0].sum().backward()
    assert weight.grad_sample is None
    wrapped.train()
    with torch.no_grad():
        wrapped(x)
    with pytest.raises(tt.errors.ShapeError):
        wrapped(x[:, :0])
    wrapped.disable_hooks()
    wrapped(x)[0].sum().backward()
    assert weight.grad_sample is None and not by_row.CALLS
    wrapped.enable_hooks()
    wrapped(x)[0].sum().backward()
    assert weight.grad_sample.shape == (B, *weight.shape)
    wrapped.remove_hooks()
    assert not by_row.CALLS and not by_row.COLLECTORS
    assert not layer._forward_hooks and not layer._forward_pre_hooks
    with tt.per_sample_grads(layer, loss_reduction="sum"):
        layer(x)[0].sum().backward()


def test_a_trace_of_a_wrapped_model_collects_once():
    model = Classifier(tt.GRU(I, H, batch_first=True, dtype=F64))
    wrapped, x = GradSampleModule(model, loss_reduction="sum"), draw(B, T, I)
    wrapped(x).pow(2).sum().backward()
    want = model.layer.weight_hh_l0.grad_sample
    wrapped.zero_grad()
    with tt.trace(wrapped) as trace:
        loss = wrapped(x).pow(2).sum()
    (layer,) = trace.flow(loss).values()
    assert_close(layer.weight_grad("weight_hh"), want.sum(0), rtol=1e-10)
    loss.backward()
    assert_close(model.layer.weight_hh_l0.grad_sample, want, rtol=1e-10)


def test_opacus_validator_takes_a_converted_model_and_a_copy_by_pickle_keeps_it():
    model = Classifier(nn.LSTM(I, H, 2, batch_first=True, dtype=F64))
    assert not ModuleValidator.is_valid(model)
    tt.convert(model)
    assert ModuleValidator.validate(model, strict=True) == []
    fixed = ModuleValidator.fix_and_validate(model)
    assert type(fixed.layer) is tt.LSTM
    again = io.BytesIO()
    torch.save(GradSampleModule(fixed).state_dict(), again)
    assert PrivacyEngine().is_compatible(module=fixed, optimizer=None, data_loader=None)


def test_what_cannot_be_served_says_so_in_a_sentence(monkeypatch):
    errors = tt.errors
    model = Classifier(tt.LSTM(I, H, batch_first=True, dtype=F64))
    with pytest.raises(errors.UnsupportedError, match='"ew" replaces the weights'):
        trained(model, mode="ew")
    with pytest.raises(errors.UnsupportedError, match="weight_hh_l0 is computed from other"):
        GradSampleModule(parametrizations.weight_norm(tt.LSTM(I, H), "weight_hh_l0"))

    class Scaled(tt.LSTM):
        def __init__(self) -> None:
            super().__init__(I, H)
            self.scale = nn.Parameter(torch.ones(H))

    with pytest.raises(errors.UnsupportedError, match="scale of a Scaled is no weight of its cell"):
        GradSampleModule(Scaled())
    layer = tt.LSTM(I, H, dtype=F64)
    wrapped, x = GradSampleModule(layer, batch_first=False), draw(T, B, I)
    with pytest.raises(errors.ShapeError, match=r"of 3 and of 4 rows|of 4 and of 3 rows"):
        (wrapped(x)[0].sum() + wrapped(x[:, :3])[0].sum()).backward()
    layer = tt.LSTM(I, H)
    layer.ft_compute_sample_grad = None  # as Opacus leaves it on a module that it does not know
    with pytest.raises(errors.UnsupportedError, match=r"register\(\) before make_private"):
        layer(torch.zeros(T, B, I))


def test_per_sample_grads_beside_opacus_asks_for_the_reduction():
    model, x = Classifier(tt.LSTM(I, H, dtype=F64)), draw(T, B, I)
    model.layer.weight_hh_l0._forward_counter = 0  # as Opacus marks what it serves
    silent = tt.per_sample_grads(model)
    with pytest.raises(tt.errors.InputValueError, match='say loss_reduction="mean" or "sum"'):
        silent.__enter__()
    with tt.per_sample_grads(model, loss_reduction="mean"):
        model(x).pow(2).sum(1).mean().backward()
    got = model.layer.weight_hh_l0.grad_sample
    wrapped = GradSampleModule(model, batch_first=False)
    served = tt.per_sample_grads(model, loss_reduction="mean")
    with pytest.raises(tt.errors.UnsupportedError, match="leave per_sample_grads out"):
        served.__enter__()
    del wrapped
    assert_close(got.mean(0), model.layer.weight_hh_l0.grad, rtol=1e-10)


def test_the_guides_block_runs():
    guide = Path(__file__).parents[2] / "docs" / "guides" / "through-time.md"
    (block,) = re.findall(r"^```py\n(.*?)^```", guide.read_text("utf-8"), re.M | re.S)
    torch.set_default_dtype(torch.float32)
    exec(block, {"torch": torch, "nn": nn, "tt": tt})


def test_a_share_scaled_by_one_row_too_few_is_noticed(monkeypatch):
    """The comparison must be able to fail: the scale of a mean is off by one row."""
    whole = by_row.param_grads_by_row

    def scaled(*arguments):
        return {name: g * (B - 1) / B for name, g in whole(*arguments).items()}

    monkeypatch.setattr(by_row, "param_grads_by_row", scaled)
    with pytest.raises(tt.errors.CheckError):
        test_the_shares_are_those_of_opacus_own_modules("GRU", "one layer", "mean")
