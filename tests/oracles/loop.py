"""The reference of these tests: a loop over steps typed by hand, a function of weights and input.

It shares no code with the package, and autograd, `torch.func` and forward mode see all of it.
"""

import torch

from .by_hand import kind_of, step

KINDS = ("RNN", "GRU", "LSTM")
T, B, I, H = 6, 3, 4, 5


def masks(case):
    """Give the arguments of a plain, a ragged, or a reset call."""
    if case == "plain":
        return {}
    if case == "ragged":
        return {"lengths": torch.tensor([6, 2, 4])}
    generator = torch.Generator().manual_seed(4)
    return {"reset": torch.rand(T, B, generator=generator) > 0.6}


def loop(module, weights, x, s_0=None, lengths=None, reset=None):
    """Give the outputs of a module's only layer by hand: (T, B, H)."""
    kind = kind_of(module)
    w = {name.removesuffix("_l0"): weight for name, weight in weights.items()}
    if s_0 is None:
        s_0 = x.new_zeros(x.shape[1], 2 * H if kind == "lstm" else H)
    s, outputs = s_0, []
    for t, x_t in enumerate(x):
        if reset is not None:
            s = torch.where(reset[t, :, None], 0, s)
        moved = step(kind, w, x_t, s)
        if lengths is None:
            s = moved
            outputs.append(s[:, :H])
        else:
            takes = (t < lengths)[:, None]
            s = torch.where(takes, moved, s)
            outputs.append(torch.where(takes, s[:, :H], 0))
    return torch.stack(outputs)
