"""pytorch-forecasting's TFT and DeepAR, whose LSTM is a subclass that calls ``super().forward``."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt

from .checks import client, judged, terms_sum_up

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


@pytest.mark.parametrize("make", [tft, deep_ar])
def test_its_training_step(make, tmp_path):
    torch.manual_seed(0)
    data = data_set()
    model = make(data)
    x, y = next(iter(data.to_dataloader(train=True, batch_size=B)))
    print(x["encoder_lengths"])
    with tt.trace(model) as trace:
        # What BaseModel.step does, with the loss told apart by step.
        prediction = (
            model.transform_output(model(x)["prediction"], x["target_scale"])
            if False
            else model(x)["prediction"]
        )
        each = model.loss.loss(prediction, y[0])
    print(each.shape)
    losses = each.mean((0, 2)) if each.dim() > 2 else each.mean(0)
    flow = trace.flow(losses)
    print(flow, flow.skipped, {n: (type(f), f.T) for n, f in flow.items()})
    terms_sum_up(flow, model, losses, list(flow))
    print(judged(flow, tmp_path))
