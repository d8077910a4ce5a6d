"""A model for `throughtime profile`: the whole protocol, in one function.

    throughtime profile examples/profile_lstm.py:last_word

The function takes nothing and returns

    model    an nn.Module that holds nn.RNN, nn.LSTM, nn.GRU or throughtime's layers;
    batch    anything that `losses` can use;
    losses   a function (model, batch) that runs the model and returns one loss per step: a 1-D
             tensor, already averaged over the rows of the batch (or a scalar);
    words    optional: one per step, to be shown shaded in the report.

The package calls ``losses(model, batch)`` once, watches, and leaves the model as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SENTENCE = "it was late in the day and everyone was walking home after a long day at work"
TEXT = SENTENCE.split()


class NextWord(nn.Module):
    """Embedding → LSTM → readout, as many have one."""

    def __init__(self, words: int) -> None:
        """Build the parts for so many words."""
        super().__init__()
        self.embed = nn.Embedding(words, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.readout = nn.Linear(32, words)

    def forward(self, x: Tensor) -> Tensor:
        """Read words (B, T) and give logits (B, T, words)."""
        output, _ = self.lstm(self.embed(x))
        return self.readout(output)


def next_word():
    """Return model, batch, losses and words: the next word is asked for at every step."""
    vocabulary = sorted(set(TEXT))
    numbers = torch.tensor([[vocabulary.index(word) for word in TEXT]])

    def losses(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(batch[:, :-1])
        each = nn.functional.cross_entropy(logits.mT, batch[:, 1:], reduction="none")
        return each.mean(0)  # (B, T) → (T,)

    return NextWord(len(vocabulary)), numbers, losses, TEXT[:-1]


def last_word():
    """The same, with a loss at the last step alone: a scalar will do."""
    model, batch, losses, words = next_word()
    return model, batch, lambda model, batch: losses(model, batch)[-1], words


if __name__ == "__main__":
    import throughtime as tt

    model, batch, losses, _ = next_word()
    with tt.trace(model) as trace:
        values = losses(model, batch)
    print(trace.flow(values))
    for name, diagnosis in tt.diagnose(trace.flow(values)).items():
        print(name, diagnosis.verdict.name, diagnosis.advice)
