"""A ReLU's backward pass at units that are no number is torch's, bit by bit (eq. 10)."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime import kernels


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_unit_that_is_nan_passes_its_gradient_as_in_torch(bad, dtype, backend):
    theirs = torch.nn.RNN(2, 5, nonlinearity="relu", dtype=dtype)
    ours = tt.RNN(2, 5, nonlinearity="relu", dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 2, dtype=dtype)
    x[0, 1, 0] = bad
    found = []
    for layer in (theirs, ours):
        leaf = x.clone().requires_grad_()
        with kernels.use(backend):
            output = layer(leaf)[0]
            found.append((output.detach(), *torch.autograd.grad(output.sum(), leaf)))
    for want, got in zip(*found, strict=True):
        assert torch.equal(got.isnan(), want.isnan())
        assert (got - want).nan_to_num(0, 0, 0).abs().max() < 1e-6
