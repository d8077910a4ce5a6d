"""A training step beside torch.nn's, by whatever kernels there are; prints what ran, as JSON."""

import json

import torch

import throughtime as tt

torch.manual_seed(0)
away = {}
for name in ("RNN", "GRU", "LSTM"):
    theirs = getattr(torch.nn, name)(5, 7).double()
    mine = getattr(tt, name)(5, 7).double()
    mine.load_state_dict(theirs.state_dict())
    x, g = torch.randn(6, 3, 5).double(), torch.randn(6, 3, 7).double()
    for model in (mine, theirs):
        model(x)[0].backward(g)
    for (term, w), v in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        away[name + "." + term] = float((w.grad - v.grad).norm() / v.grad.norm())
found = tt.kernels.available()
ran = tt.kernels.last_choice().name
facts = dict(native=found.native, isa=found.isa, reason=found.reason)
print(json.dumps(dict(file=tt.__file__, ran=ran, away=away, **facts)))
