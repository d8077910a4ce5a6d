"""Work that is recorded and replayed: when, how much is kept, and what stands in the way."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.oracles.captured import Again, Captured
from torch.utils._python_dispatch import TorchDispatchMode

from throughtime.replays import Replays, graphs, obstacle, unrecorded
from throughtime.replays.cuda import CUDA, WorkRecording

CPU = torch.device("cpu")


@pytest.fixture
def again(monkeypatch):
    recorder = Again()
    monkeypatch.setattr(graphs, "RECORDER", [recorder])
    return recorder


def doubled(replays, given, key="double"):
    done = replays.run(key, lambda a, *_: (2 * a,), (given, None))
    assert torch.equal(done.tensors[0], 2 * given)
    return done


def test_the_second_sweep_of_a_shape_is_recorded_and_every_later_one_replayed(again):
    replays = Replays(most=2)
    results = [doubled(replays, torch.full((3,), value)).tensors[0] for value in (1.0, 2.0, 3.0)]
    assert again.log == ["recorded", "replayed", "replayed"]
    assert [float(r[0]) for r in results] == [2, 4, 6]  # each has memory of its own


def test_another_shape_or_kind_is_another_recording_and_old_ones_are_dropped(again):
    replays = Replays(most=2)
    for given in (torch.ones(3), torch.ones(4), torch.ones(3).double(), torch.ones(3)):
        doubled(replays, given)
    assert again.log == []
    doubled(replays, torch.ones(3))
    doubled(replays, torch.ones(3), "another")
    assert again.log == ["recorded", "replayed"]


def test_no_more_memory_is_kept_than_allowed(again, monkeypatch):
    replays = Replays(most=8, most_bytes=3 * 2 * 4000)
    for size in range(1000, 1006):
        for _ in range(2):
            doubled(replays, torch.ones(size))
    made = [found for found in replays._known.values() if isinstance(found, WorkRecording)]
    assert len(made) == 2
    monkeypatch.setattr(graphs, "MOST_BYTES", 100)
    told = [doubled(replays, torch.ones(2000)).reason for _ in range(3)]
    assert all("would keep" in reason for reason in told) and again.log.count("recorded") == 6


def test_what_cannot_be_recorded_runs_as_ever_is_not_tried_again_and_says_why(again, monkeypatch):
    tried = []

    def fails(work, inputs, *, alone):
        tried.append(work)
        raise RuntimeError("capture\nand more")

    monkeypatch.setattr(again, "record", fails)
    replays = Replays()
    told = [doubled(replays, torch.ones(3)).reason for _ in range(4)]
    assert told[0] == "" and len(tried) == 1
    assert told[1:] == ["it could not be recorded (RuntimeError: capture)"] * 3


def test_a_recording_made_in_inference_mode_serves_outside_of_it_too(again):
    replays = Replays()
    with torch.inference_mode():
        for _ in range(2):
            assert doubled(replays, torch.ones(3)).tensors[0].is_inference()
    assert not doubled(replays, torch.ones(3)).tensors[0].is_inference()
    assert again.log == ["recorded", "replayed", "replayed"]


def test_what_was_met_while_recording_was_off_is_recorded_afterwards(again):
    replays = Replays()
    with unrecorded():
        assert "switched off" in [doubled(replays, torch.ones(3)).reason for _ in range(3)][2]
    assert [doubled(replays, torch.ones(3)).reason for _ in range(2)] == ["", ""]
    assert again.log == ["recorded", "replayed"]


def test_inputs_with_a_graph_leave_none_in_the_recording(again):
    replays, given = Replays(), torch.ones(3, requires_grad=True)
    with torch.no_grad():
        for _ in range(2):
            doubled(replays, given)
    done = replays.run("double", lambda a, *_: (2 * a,), (given, None))  # where grad is on
    assert done.tensors[0].grad_fn is None
    (made,) = (found for found in replays._known.values() if isinstance(found, WorkRecording))
    assert made.inputs[0].grad_fn is None and not made.inputs[0].requires_grad


def test_threads_take_turns_at_a_recording(again):
    replays, failed = Replays(), []

    def take(value):
        for _ in range(50):
            got = replays.run("double", lambda a: (2 * a,), (torch.full((64,), value),))
            failed.extend([got] if bool((got.tensors[0] != 2 * value).any()) else [])

    threads = [threading.Thread(target=take, args=(float(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and again.log.count("recorded") == 1


def test_nothing_is_recorded_where_operations_are_looked_at_or_autocast_keeps_tensors(again):
    assert obstacle(CPU) == ""
    with TorchDispatchMode():
        assert "single operations" in obstacle(CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in obstacle(CPU)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        assert "anomaly" in obstacle(CPU)
    told = []
    torch.func.vmap(lambda x: (told.append(obstacle(CPU)), x)[1])(torch.ones(2))
    assert "single operations" in told[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_recorded_and_it_is_said(monkeypatch):
    assert "CUDA device, and this is cpu" in obstacle(CPU)
    # Whatever the driver raises is why there is none.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert "cannot be recorded on cuda:7" in CUDA.obstacle(torch.device("cuda", 7))


def test_what_a_capture_would_refuse_is_refused_by_the_one_on_a_cpu():
    for work in (
        lambda a: (a * float(a.sum()),), lambda a: (a[a > 0],), lambda a: (torch.rand_like(a),),
        lambda a: (a + torch.tensor([1.0]),),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="not permitted"), Captured():
            work(torch.ones(3))
