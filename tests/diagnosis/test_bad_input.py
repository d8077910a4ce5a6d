"""What cannot be looked at is refused in a sentence, and the model is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.errors import ThroughTimeError


class Model(nn.Module):
    """A layer with a batch norm in front, and a dropout behind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rnn = nn.BatchNorm1d(3), nn.GRU(3, 8, batch_first=True)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self.training else x
        return self.head(self.drop(self.rnn(x)[0]))


def left(model: nn.Module) -> list[Tensor]:
    """Everything that measuring could have changed."""
    held = (*model.parameters(), *model.buffers())
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flags = torch.tensor([m.training for m in model.modules()])
    return [t.detach().clone() for t in (*held, *grads, flags, torch.get_rng_state())]


def batches():
    yield torch.randn(4, 12, 3)


def drawn(shape=(4, 12, 3), dtype=torch.float32, device="cpu"):
    return lambda model: model(torch.ones(shape, dtype=dtype, device=device)).pow(2).mean()


def of_a_loader():
    draw = batches()
    return lambda model: model(next(draw)).pow(2).mean()


def freed(model: nn.Module) -> Tensor:
    loss = drawn()(model)
    loss.backward()
    return loss


BAD = {
    "nothing": (lambda model: [model(torch.ones(4, 12, 3)), None][1], "NoneType"),
    "no scalar": (lambda model: model(torch.ones(4, 12, 3)), "1-D"),
    "several": (lambda model: (drawn()(model),) * 2, "tuple"),
    "no rows": (lambda model: drawn((0, 12, 3))(model.eval()), "no rows"),
    "no steps": (lambda model: drawn((4, 0, 3))(model.eval()), "at least one time step"),
    "integers": (lambda model: drawn(dtype=torch.int64)(model.eval()), "int64"),
    "double": (lambda model: drawn()(model.eval().double()), "float64"),
    "detached": (lambda model: drawn()(model).detach(), "require no grad"),
    "freed": (freed, "backward"),
}


@pytest.mark.parametrize("losses, said", BAD.values(), ids=BAD)
def test_treat_refuses_in_a_sentence_and_leaves_the_model(losses, said):
    model = Model()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = left(model)
    with pytest.raises(ThroughTimeError, match=said) as raised:
        tt.treat(model, losses, only="chrono")
    assert "\n" not in str(raised.value)
    assert all(map(torch.equal, before, left(model)))


@pytest.mark.parametrize("losses", [drawn(), drawn((4, 1, 3)), drawn((1, 12, 3))])
def test_treat_leaves_a_model_that_it_can_treat(losses):
    model = Model()
    before = left(model)
    tt.treat(model, losses, only=["chrono", "standardise"])
    assert all(map(torch.equal, before, left(model)))
    assert all(p.grad is None for p in model.parameters())


def test_a_loader_that_ends_is_named():
    with pytest.raises(ThroughTimeError, match="Draw the batch once"):
        tt.treat(Model(), of_a_loader(), only="chrono")


def test_what_a_target_raises_comes_through_and_the_model_stays():
    model = Model()

    def losses(given: nn.Module) -> Tensor:
        given.eval()
        drawn()(given)
        raise OSError("the data are gone")

    before = left(model)
    with pytest.raises(OSError, match="the data are gone"):
        tt.treat(model, losses)
    assert all(map(torch.equal, before, left(model)))


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM, nn.RNN, nn.GRUCell])
def test_a_model_without_numbers_is_refused(cell):
    model = cell(3, 8, device="meta")
    with tt.trace(model) as trace:
        found = model(
            torch.ones(12, 4, 3, device="meta")
            if cell is not nn.GRUCell
            else torch.ones(4, 3, device="meta")
        )
    found = found[0] if isinstance(found, tuple) else found
    with pytest.raises(ThroughTimeError, match="holds no numbers"):
        trace.flow(found.mean())


def test_a_plain_network_with_nan_in_its_weights_is_judged():
    model = nn.RNN(3, 8)
    with torch.no_grad():
        model.weight_hh_l0[2, 1] = torch.nan
    with tt.trace(model) as trace:
        loss = model(torch.ones(9, 2, 3))[0].pow(2).mean()
    flow = trace.flow(loss)
    assert tt.diagnose(flow)["l0"].verdict is tt.Verdict.NONFINITE
    assert bool(flow["l0"].bound(3, 1).isnan().all())
