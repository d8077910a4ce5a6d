"""pytorch-forecasting's TFT and DeepAR, whose LSTM is a subclass that calls ``super().forward``."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt

from .checks import client, judged, left_alone, terms_sum_up

forecasting = client("pytorch_forecasting")
np, pd = client("numpy"), client("pandas")
metrics = client("pytorch_forecasting.metrics")
pytestmark = pytest.mark.filterwarnings("ignore")
ENCODER, DECODER, B = 18, 6, 8


def data_set():
    steps, series = 60, 4
    t = np.arange(steps)
    frames = [
        pd.DataFrame(
            {
                "series": str(n),
                "t": t,
                "value": np.sin(0.3 * t + n) + 0.1 * np.random.default_rng(n).normal(size=steps),
                "phase": np.sin(0.3 * t),
            }
        )
        for n in range(series)
    ]
    return forecasting.TimeSeriesDataSet(
        pd.concat(frames, ignore_index=True),
        time_idx="t", target="value", group_ids=["series"],
        min_encoder_length=ENCODER // 2, max_encoder_length=ENCODER,
        min_prediction_length=DECODER, max_prediction_length=DECODER,
        static_categoricals=["series"],
        time_varying_known_reals=["t", "phase"], time_varying_unknown_reals=["value"],
    )  # fmt: skip


def tft(data):
    return forecasting.TemporalFusionTransformer.from_dataset(
        data, hidden_size=8, attention_head_size=2, hidden_continuous_size=4, dropout=0.0,
        loss=metrics.QuantileLoss(), log_interval=-1,
    )  # fmt: skip


def deep_ar(data):
    return forecasting.DeepAR.from_dataset(
        data, hidden_size=12, rnn_layers=2, dropout=0.0, log_interval=-1
    )


def losses_of(model, batch):
    """Return the training loss that `BaseModel.step` takes, told apart by the step predicted."""
    x, y = batch
    each = model.loss.loss(model(x)["prediction"], y[0])
    return each.flatten(2).mean((0, 2)) if each.dim() > 2 else each.mean(0)


@pytest.mark.parametrize("make", [tft, deep_ar])
def test_its_training_step(make, tmp_path):
    torch.manual_seed(0)
    data = data_set()
    model = make(data)
    batch = next(iter(data.to_dataloader(train=True, batch_size=B, shuffle=False)))
    plain = losses_of(model, batch)
    with tt.trace(model) as trace:
        losses = losses_of(model, batch)
    torch.testing.assert_close(losses, plain)
    flow = trace.flow(losses)
    assert not flow.skipped
    terms_sum_up(flow, model, losses, list(flow), by_step=make is deep_ar)
    lengths = {name: layer.T for name, layer in flow.items()}
    verdicts = judged(flow, tmp_path)
    if make is tft:
        # The decoder's steps are read by attention, and the encoder's by way of it too: the
        # predictions look into the past without the recurrence.
        assert lengths == {"lstm_encoder.l0": ENCODER, "lstm_decoder.l0": DECODER}
        assert verdicts["lstm_encoder.l0"] == "HEALTHY"
    else:
        # One run: the decoder's call goes on from the encoder's packed one. DeepAR's loss is on the
        # prediction alone, and two default LSTMs forget in some ten steps.
        steps = ENCODER + DECODER - 1
        assert lengths == {"rnn.l0": steps, "rnn.l1": steps}
        assert set(verdicts.values()) == {"VANISHING"}


def test_what_looks_at_rows_of_unequal_length_counts_their_own_steps():
    torch.manual_seed(0)
    data = data_set()
    model = deep_ar(data)
    x, y = next(iter(data.to_dataloader(train=True, batch_size=B)))
    with tt.trace(model) as trace:
        losses = losses_of(model, (x, y))
    steps = trace.flow(losses)["rnn.l0"].row_profiles().isfinite().sum(0)
    # Lag 0, the encoder's steps, the predictions but the last, and the state before the first.
    assert steps.tolist() == (x["encoder_lengths"] + DECODER).tolist()


def test_convert_leaves_the_subclass_alone_and_says_so():
    left_alone(deep_ar(data_set()), "rnn")
    left_alone(tft(data_set()), "lstm_encoder", "lstm_decoder")
