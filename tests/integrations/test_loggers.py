"""A monitor's numbers in TensorBoard, Weights & Biases and MLflow, read back by themselves."""

from __future__ import annotations

import json

import pytest

import throughtime as tt
from watch.models import Model, train

from .packages import package

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
NAME = "throughtime/rnn.l0/horizon"


def watched(to, steps: int = 21, **options) -> tt.Monitor:
    model = Model(last=True)
    monitor = tt.Monitor(model, every=2, to=to, **options)
    train(model, monitor, steps)
    monitor.close()
    return monitor


def test_tensorboard_has_scalars_findings_and_the_map(tmp_path):
    package("tensorboard")
    writers = package("torch.utils.tensorboard")
    accumulators = package("tensorboard.backend.event_processing.event_accumulator")
    with writers.SummaryWriter(str(tmp_path)) as writer:
        monitor = watched([writer, tmp_path / "run.jsonl"], lag=20)
    events = accumulators.EventAccumulator(
        str(tmp_path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    )
    events.Reload()
    scalars = events.Scalars(NAME)
    assert ([s.step for s in scalars], [s.value for s in scalars]) == monitor.history.series(
        "rnn.l0", "horizon"
    )
    images = events.Images("throughtime/rnn.l1/gradient by lag")
    assert [image.step for image in images] == [18, 20]
    assert images[-1].encoded_image_string.startswith(b"\x89PNG")
    (text, *_) = events.Tensors("throughtime/findings/text_summary")
    assert b"vanishes" in text.tensor_proto.string_val[0]
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 11


@pytest.mark.parametrize("by", ["module", "run"])
def test_weights_and_biases_has_the_numbers_over_our_own_steps(by, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = package("wandb")
    with wandb.init(mode="offline", dir=tmp_path, project="watched") as run:
        logged: list[dict] = []
        log = run.log
        monkeypatch.setattr(
            run, "log", lambda data, **named: (logged.append(data), log(data, **named))
        )
        monitor = watched(wandb if by == "module" else run, 5)
        run.log({"loss": 1.0})
        assert run.summary[NAME] == monitor.history[-1].values[NAME]
    assert [row["throughtime/step"] for row in logged[:-1]] == [0, 2, 4]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("by", ["module", "run"])
def test_mlflow_has_the_numbers_in_sqlite(by, tmp_path, monkeypatch):
    mlflow = package("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("watched", artifact_location=str(tmp_path / "artifacts"))
    with mlflow.start_run(experiment_id=experiment) as run:
        monitor = watched(mlflow if by == "module" else run, 5)
    kept = mlflow.MlflowClient().get_metric_history(run.info.run_id, NAME)
    found = sorted((metric.step, metric.value) for metric in kept)
    assert found == sorted(zip(*monitor.history.series("rnn.l0", "horizon"), strict=True))
    assert "vanishes" in mlflow.get_run(run.info.run_id).data.tags["throughtime.findings"]


def test_a_tracking_server_that_is_lost_is_warned_of_and_holds_nothing_up(monkeypatch):
    mlflow = package("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(
        mlflow, "active_run", lambda: type("Run", (), {"info": type("Info", (), {"run_id": "1"})})
    )
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    said: list[dict] = []
    with pytest.warns(tt.MonitorWarning, match="MLflow .*The training goes on"):
        watched([mlflow, said.append], 5)
    assert len(said) == 3


def test_mlflow_without_a_run_is_warned_of():
    mlflow = package("mlflow")
    assert mlflow.active_run() is None
    with pytest.warns(tt.MonitorWarning, match=r"call mlflow\.start_run\(\) first"):
        watched(mlflow, 1)


def test_a_record_is_plain_json(tmp_path):
    said: list[dict] = []
    watched(said.append, 1)
    assert json.loads(json.dumps(said[0], allow_nan=False)) == said[0]
