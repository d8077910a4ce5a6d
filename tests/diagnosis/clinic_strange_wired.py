"""The clinic over wiring, by a stranger: padding, axes, directions, states, gradients that end.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_strange_wired.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced
from diagnosis.clinic_strange import Leaning, Model, Stepped, each, last, mse

# What is padded, and read.


def words(T: int = 50, B: int = 8, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of words 1 to 19, padded with word 0."""
    lengths = torch.randint(4, 10, (B,))
    x = torch.randint(1, 20, (B, T))
    steps = torch.arange(T)
    gone = steps >= lengths[:, None] if not left else steps < T - lengths[:, None]
    return x.masked_fill(gone, 0), lengths


class Texts(nn.Module):
    """Words, a recurrent layer, a class."""

    def __init__(self, cell=nn.GRU, padding=None, **options) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8, padding_idx=padding)
        self.rnn = cell(8, 16, batch_first=True, **options)
        self.head = nn.Linear(16 * (2 if options.get("bidirectional") else 1), 2)


def pad_token_read_at_the_end(right: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    model, (x, lengths), y = Texts(num_layers=2), words(), torch.randint(2, (8,))

    def loss() -> Tensor:
        h = model.rnn(model.words(x))[0]
        h = h[torch.arange(8), lengths - 1] if right else h[:, -1]
        return ce(model.head(h), y)

    return traced(model, loss)


def left_padding_read_backwards() -> tt.Flow:
    torch.manual_seed(6)
    model, (x, _), y = Texts(bidirectional=True), words(left=True), torch.randint(2, (8,))

    def loss() -> Tensor:
        h = model.rnn(model.words(x))[1]
        return ce(model.head(torch.cat((h[0], h[1]), -1)), y)

    return traced(model, loss)


def mean_over_the_padding(masked: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    model, (x, lengths), y = Texts(nn.LSTM, 0), words(), torch.randint(2, (8,))

    def loss() -> Tensor:
        h = model.rnn(model.words(x))[0]
        if masked:
            h = (h * (x != 0)[..., None]).sum(1) / lengths[:, None]
        else:
            h = h.mean(1)
        return ce(model.head(h), y)

    return traced(model, loss)


def last_value_repeated() -> tt.Flow:
    torch.manual_seed(6)
    x, lengths = torch.randn(8, 40, 4), torch.randint(5, 12, (8,))
    for row, length in enumerate(lengths):
        x[row, length:] = x[row, length - 1]
    return last(Model(nn.LSTM), x)


def sentinel_in_a_loop() -> tt.Flow:
    torch.manual_seed(6)
    x, lengths = torch.rand(8, 30, 4), torch.randint(3, 9, (8,))
    x[torch.arange(30) >= lengths[:, None]] = -1
    return last(Stepped(nn.RNNCell), x)


# Directions.


def class_token_first() -> tt.Flow:
    """output[:, 0] as with BERT: the forward direction has seen one step."""
    torch.manual_seed(6)
    model, x, y = Model(nn.GRU, bidirectional=True), torch.randn(8, 14, 4), torch.randint(2, (8,))
    return traced(model, lambda: ce(model(x)[:, 0], y))


def halves_by_view() -> tt.Flow:
    torch.manual_seed(6)
    rnn, head = nn.LSTM(4, 16, batch_first=True, bidirectional=True, proj_size=6), nn.Linear(6, 2)
    x, y = torch.randn(8, 14, 4), torch.randint(2, (8,))

    def loss() -> Tensor:
        h = rnn(x)[0].view(8, 14, 2, 6)[:, -1]
        return ce(head(h[:, 0] + h[:, 1]), y)

    return traced(rnn, loss)


class ByHand(nn.Module):
    """Two layers, one over the steps turned round."""

    def __init__(self, turned_back: bool) -> None:
        super().__init__()
        self.there, self.back = (nn.GRU(4, 12, batch_first=True) for _ in range(2))
        self.head, self.turned_back = nn.Linear(24, 2), turned_back

    def forward(self, x: Tensor) -> Tensor:
        back = self.back(x.flip(1))[0]
        back = back.flip(1) if self.turned_back else back
        return self.head(torch.cat((self.there(x)[0], back), -1))


def by_hand(turned_back: bool) -> tt.Flow:
    torch.manual_seed(6)
    return last(ByHand(turned_back), torch.randn(8, 14, 4))


# Axes.


def last_row_for_last_step(right: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    model, x, y = Model(nn.LSTM), torch.randn(12, 20, 4), torch.randint(2, (12,))

    def loss() -> Tensor:
        said = model(x)
        return ce(said[:, -1], y) if right else ce(said[-1], y[:1].expand(20))

    return traced(model, loss)


def permuted_though_batch_first(right: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    model, x, y = Model(nn.GRU), torch.randn(12, 24, 4), torch.randint(2, (12,))

    def loss() -> Tensor:
        if right:
            return ce(model(x)[:, -1], y)
        return ce(model(x.permute(1, 0, 2)).permute(1, 0, 2)[:, -1], y)

    return traced(model, loss)


def output_seen_as_batch_first(T: int = 20) -> tt.Flow:
    """With 20 steps two of the rows are read, with 21 each is, at another step."""
    torch.manual_seed(6)
    rnn, head = nn.RNN(4, 16), nn.Linear(16, 2)
    x, y = torch.randn(T, 8, 4), torch.randint(2, (8,))
    return traced(rnn, lambda: ce(head(rnn(x)[0].view(8, T, 16)[:, -1]), y))


def output_seen_as_time_first() -> tt.Flow:
    torch.manual_seed(6)
    model, x, y = Model(nn.GRU), torch.randn(16, 12, 4), torch.randint(2, (16,))
    return traced(model, lambda: ce(model(x).reshape(12, 16, 2)[-1], y))


def layers_by_view(right: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    rnn, head = nn.GRU(4, 16, 2, batch_first=True), nn.Linear(16, 2)
    x, y = torch.randn(8, 12, 4), torch.randint(2, (8,))

    def loss() -> Tensor:
        h = rnn(x)[1]
        return ce(head(h[-1] if right else h.view(8, 2, 16)[:, -1]), y)

    return traced(rnn, loss)


def flat_states() -> tt.Flow:
    torch.manual_seed(6)
    rnn, head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 2)
    x, y = torch.randn(16, 12, 4), torch.randint(2, (1,))
    return traced(rnn, lambda: ce(head(rnn(x)[1][0].view(-1, 16)[-1:]), y))


def images_by_their_batch() -> tt.Flow:
    """Digits (B, 1, 28, 28) squeezed and put into a layer that wants time first."""
    torch.manual_seed(6)
    rnn, head = nn.LSTM(14, 16), nn.Linear(16, 3)
    x, y = torch.rand(32, 1, 14, 14).squeeze(1), torch.randint(3, (32,))
    return traced(rnn, lambda: ce(head(rnn(x)[0])[:, -1], y))


# Gradients that end.


class Speaking(nn.Module):
    """An encoder, and a decoder that is told the words that the encoder thinks it heard."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = (
            nn.GRU(4, 12, batch_first=True),
            nn.GRU(6, 12, batch_first=True),
        )
        self.said, self.words, self.head = nn.Linear(12, 9), nn.Embedding(9, 6), nn.Linear(12, 9)
        self.soft = soft

    def forward(self, x: Tensor) -> Tensor:
        scores = self.said(self.encoder(x)[0])
        if self.soft:
            heard = scores.softmax(-1) @ self.words.weight
        else:
            heard = self.words(scores.argmax(-1))
        return self.head(self.decoder(heard)[0])


def heard_by_argmax(soft: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    model, x, y = Speaking(soft), torch.randn(6, 9, 4), torch.randint(9, (6, 9))
    return traced(model, lambda: ce(model(x).transpose(1, 2), y))


def all_weights_zero() -> tt.Flow:
    torch.manual_seed(6)
    model, x, y = Model(nn.GRU), torch.randn(6, 9, 4), torch.rand(6, 9, 2)
    for p in model.parameters():
        nn.init.zeros_(p)
    return traced(model, lambda: mse(model(x), y))


def dead_read_out(bias: float = -9) -> tt.Flow:
    torch.manual_seed(6)
    model, x, y = Model(nn.LSTM, out=8), torch.randn(6, 9, 4), torch.rand(6, 9, 8)
    with torch.no_grad():
        model.head.bias.add_(bias)
    return traced(model, lambda: mse(model(x).relu(), y))


def new_tensor_between(right: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    lower, upper = nn.LSTM(4, 12, batch_first=True), nn.RNN(12, 12, batch_first=True)
    x = torch.randn(6, 9, 4)

    def loss() -> Tensor:
        h = lower(x)[0]
        return upper(h if right else torch.from_numpy(h.detach().numpy()))[0].pow(2).mean()

    return traced(nn.ModuleList((lower, upper)), loss)


def only_one_of_two_towers() -> tt.Flow:
    torch.manual_seed(6)
    towers = nn.ModuleDict({k: nn.GRU(4, 12, batch_first=True) for k in ("query", "answer")})
    a, b = torch.randn(6, 9, 4), torch.randn(6, 12, 4)

    def loss() -> Tensor:
        q, r = towers["query"](a)[1][0], towers["answer"](b)[1][0]
        return (q * r.data).sum(-1).sigmoid().log().neg().mean()

    return traced(towers, loss)


def carry_cells(change) -> tt.Flow:
    """An LSTMCell whose state passes through `change` every five steps."""
    torch.manual_seed(6)
    cell, head, x = nn.LSTMCell(4, 16), nn.Linear(16, 1), torch.randn(6, 20, 4)

    def loss() -> Tensor:
        state = (torch.zeros(6, 16), torch.zeros(6, 16))
        for t in range(20):
            state = cell(x[:, t], state)
            if t % 5 == 4 and t < 19:
                state = change(*state)
        return head(state[0]).pow(2).mean()

    return traced(cell, loss)


def memory_alone_detached() -> tt.Flow:
    return carry_cells(lambda h, c: (h, c.detach()))


def through_lists() -> tt.Flow:
    return carry_cells(lambda h, c: (torch.tensor(h.tolist()), torch.tensor(c.tolist())))


def whole(h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return h, c


def sections_with_one_question(cut: bool = True) -> tt.Flow:
    torch.manual_seed(6)
    rnn, head = nn.GRU(4, 16, 2, batch_first=True), nn.Linear(16, 2)
    x, y = torch.randn(6, 24, 4), torch.randint(2, (6,))

    def loss() -> Tensor:
        state = None
        for part in x.split(8, 1):
            _, state = rnn(part, state)
            state = state.clone().detach() if cut else state.clone()
        return ce(head(rnn(x[:, :4], state)[0][:, -1]), y)

    return traced(rnn, loss)


def marked_and_cut(cut: bool = True) -> tt.Flow:
    torch.manual_seed(6)
    count = [0]

    def step(u, h, W):
        count[0] += 1
        return (u + W(h.detach() if cut and count[0] == 8 else h)).tanh()

    return each(Leaning(step), torch.randn(4, 16, 4))


class Keeping(nn.Module):
    """A model of words that keeps its state from batch to batch."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(20, 8), nn.LSTM(8, 16, batch_first=True)
        self.head, self.state, self.cut = nn.Linear(16, 20), None, cut

    def forward(self, x: Tensor) -> Tensor:
        h, state = self.rnn(self.words(x), self.state)
        self.state = tuple(s.detach() for s in state) if self.cut else state
        return self.head(h)


def kept_between_batches(cut: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    model = Keeping(cut)
    x = torch.randint(20, (4, 13))
    model(torch.randint(20, (4, 12)))
    return traced(model, lambda: ce(model(x[:, :-1]).transpose(1, 2), x[:, 1:]))


def warmed_up_outside(inside: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    rnn, x = nn.GRU(4, 12, 2, batch_first=True), torch.randn(5, 16, 4)
    before = rnn(x[:, :9])[1]

    def loss() -> Tensor:
        state = rnn(x[:, :9])[1] if inside else before
        return rnn(x[:, 9:], state)[0].pow(2).mean()

    return traced(rnn, loss)


class TwoHeads(nn.Module):
    """A tagger with a second head, and an attention that nobody calls."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.rnn, self.tags, self.kind = (
            nn.GRU(4, 12, batch_first=True),
            *(nn.Linear(12, 3) for _ in range(2)),
        )
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True) if attention else None


def a_head_not_in_the_loss(both: bool = False) -> tt.Flow:
    torch.manual_seed(6)
    model, x = TwoHeads(False), torch.randn(6, 9, 4)

    def loss() -> Tensor:
        h = model.rnn(x)[0]
        return model.tags(h).pow(2).mean() + (model.kind(h[:, -1]).pow(2).mean() if both else 0)

    return traced(model, loss)


def attention_never_called() -> tt.Flow:
    torch.manual_seed(6)
    model, x = TwoHeads(True), torch.randn(6, 9, 4)

    def loss() -> Tensor:
        h = model.rnn(x)[0]
        return model.tags(h).pow(2).mean() + model.kind(h[:, -1]).pow(2).mean()

    return traced(model, loss)


CASES = [
    Case("a word for padding, read at the end", ("reads-padding",), pad_token_read_at_the_end,
         lambda: pad_token_read_at_the_end(True)),
    Case("left padding, read backwards", ("reads-padding",), left_padding_read_backwards),
    Case("mean over the padding", ("reads-padding",), mean_over_the_padding,
         lambda: mean_over_the_padding(True)),
    Case("the last value repeated", ("reads-padding",), last_value_repeated),
    Case("-1 for padding, in a loop", ("reads-padding",), sentinel_in_a_loop),
    Case("the first output of both directions", ("reads-one-step", "reverse-reads-one-step"),
         class_token_first),
    Case("halves by view", ("reverse-reads-one-step",), halves_by_view),
    Case("two directions by hand, turned back", ("reverse-reads-one-step", "reads-one-step"),
         lambda: by_hand(True), lambda: by_hand(False)),
    Case("output[-1] with batch first", ("rows-without-gradient",), last_row_for_last_step,
         lambda: last_row_for_last_step(True)),
    Case("permuted though batch first", ("rows-without-gradient",), permuted_though_batch_first,
         lambda: permuted_though_batch_first(True)),
    Case("output seen as batch first", ("rows-without-gradient",), output_seen_as_batch_first),
    Case("output seen as batch first, 21 steps", ("rows-without-gradient",),
         lambda: output_seen_as_batch_first(21)),
    Case("output seen as time first", ("rows-without-gradient",), output_seen_as_time_first),
    Case("layers by view", ("rows-without-gradient",), layers_by_view,
         lambda: layers_by_view(True)),
    Case("flat states, the last of them", ("rows-without-gradient",), flat_states),
    Case("images by their batch", ("rows-without-gradient",), images_by_their_batch),
    Case("heard by argmax", ("no-gradient",), heard_by_argmax, lambda: heard_by_argmax(True)),
    Case("a dead read-out", ("no-gradient",), dead_read_out, lambda: dead_read_out(0)),
    Case("all weights 0", ("no-gradient",), all_weights_zero),
    Case("through numpy", ("no-gradient",), new_tensor_between, lambda: new_tensor_between(True)),
    Case("one of two towers by .data", ("no-gradient",), only_one_of_two_towers),
    Case("c alone detached", ("state-cut",), memory_alone_detached, lambda: carry_cells(whole)),
    Case("state through lists", ("state-cut",), through_lists),
    Case("sections with one question", ("state-cut",), sections_with_one_question,
         lambda: sections_with_one_question(False)),
    Case("a marked state cut", ("state-cut",), marked_and_cut, lambda: marked_and_cut(False)),
    Case("kept between batches", ("state-on-old-graph",), kept_between_batches,
         lambda: kept_between_batches(True)),
    Case("warmed up outside", ("state-on-old-graph",), warmed_up_outside,
         lambda: warmed_up_outside(True)),
    Case("a head not in the loss", ("parameter-unreached",), a_head_not_in_the_loss,
         lambda: a_head_not_in_the_loss(True)),
    Case("attention never called", ("parameter-unreached",), attention_never_called),
]  # fmt: skip
