"""What is asked of torch's CUDA graphs, and what is left when a capture breaks off, without a GPU.

torch's own `torch.cuda.graph` runs here; beneath it stand a stream, an allocator and a graph that
do what torch's C++ does: a capture that was broken cannot be ended, memory pools are counted, and
a pool that no graph holds cannot be shared any more.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from tests.oracles.captured import Captured

from throughtime.replays import Replays, cuda, graphs
from throughtime.replays.cuda import BusyError, _Graphs


class Stream:
    """A stream that notes for whom it waited."""

    def __init__(self, name: str, log: list) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class Current:
    """torch's StreamContext: where it is not left, nothing is put back."""

    def __init__(self, device: Device, stream: Stream) -> None:
        self.device, self.stream = device, stream

    def __enter__(self) -> None:
        self.before, self.device.now = self.device.now, self.stream

    def __exit__(self, *_) -> None:
        self.device.now = self.before


class Device:
    """A device without one."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = self.main = Stream("main", self.log)
        self.pools: dict[tuple, int] = {}  # how many graphs hold each
        self.under_way: list[tuple] = []

    def begin(self, pool) -> None:
        if self.pools.get(pool) == 0:
            raise RuntimeError("INTERNAL ASSERT FAILED: it->second->use_count > 0")
        self.pools[pool] = self.pools.get(pool, 0) + 1
        self.under_way.append(pool)

    def end(self, _, pool) -> None:
        if pool not in self.under_way:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.under_way.remove(pool)

    def release(self, _, pool) -> None:
        self.pools[pool] -= 1

    def stream(self, stream) -> Current:
        return Current(self, stream)


class Graph:
    """Counts as torch's CUDAGraph does."""

    def __init__(self, device: Device) -> None:
        self.device, self.pool = device, None
        self.captured = Captured()

    def capture_begin(self, pool, **_) -> None:
        assert self.device.now is not self.device.main
        self.device.begin(pool)
        self.device.log.append("begin")
        self.at = pool
        self.captured.__enter__()

    def capture_end(self) -> None:
        self.captured.__exit__(None, None, None)
        self.device.log.append("end")
        if self.device.broken:
            self.device.broken = False
            raise RuntimeError("operation failed due to a previous error during capture")
        self.device.end(0, self.at)
        self.pool = self.at

    def replay(self) -> None:
        self.captured.replay()

    def __del__(self) -> None:
        if self.pool is not None:
            self.device.release(0, self.pool)


@pytest.fixture
def device(monkeypatch):
    found, handles = Device(), iter(range(1, 99))
    found.broken = False
    here = {
        "current_stream": lambda *_: found.now, "stream": found.stream,
        "is_current_stream_capturing": lambda: False,
        "Stream": lambda *_: Stream("side", found.log), "device": lambda _: nullcontext(),
        "set_stream": lambda stream: setattr(found, "now", stream),
        "CUDAGraph": lambda: Graph(found), "graph_pool_handle": lambda: (0, next(handles)),
        "synchronize": lambda: None, "empty_cache": lambda: None,
    }  # fmt: skip
    for name, value in here.items():
        monkeypatch.setattr(torch.cuda, name, value)
    below = {
        "_cuda_endAllocateToPool": found.end, "_cuda_releasePool": found.release,
        "_cuda_clearCublasWorkspaces": lambda: found.log.append("clear"),
        "_host_emptyCache": lambda: None,
    }  # fmt: skip
    for name, value in below.items():
        monkeypatch.setattr(torch._C, name, value, raising=False)
    return found


@pytest.fixture
def recorder(device, monkeypatch):
    made = _Graphs()
    monkeypatch.setattr(made, "obstacle", lambda device: "")
    monkeypatch.setattr(graphs, "RECORDER", [made])
    return made


def doubled(a):
    return (2 * a,)


def run(replays, work=doubled, key="double", value=3.0):
    done = replays.run(key, work, (torch.full((2,), value),))
    assert torch.equal(done.tensors[0], torch.full((2,), 2 * value))
    return done.reason


def test_once_before_on_the_side_then_captured_with_workspaces_of_its_own(device, recorder):
    replays = Replays()
    for value in (1.0, 2.0, 3.0):
        assert run(replays, value=value) == ""
    assert device.log == [
        "side waits for main", "main waits for side", "clear", "begin", "end", "clear"
    ]  # fmt: skip


def test_a_capture_that_breaks_leaves_the_stream_and_the_allocator_as_they_were(device, recorder):
    def breaks(a):
        if device.now is not device.main and device.under_way:
            device.broken = True
            raise RuntimeError("operation not permitted when stream is capturing")
        return (2 * a,)

    replays = Replays()
    told = [run(replays, breaks, "breaks") for _ in range(3)]
    assert told[0] == "" and "not permitted" in told[1] and told[2] == told[1]
    assert device.now is device.main and not device.under_way
    assert not any(device.pools.values())
    assert [run(replays) for _ in range(3)] == [""] * 3  # others are recorded as ever
    assert isinstance(recorder.record(doubled, (torch.ones(2),)).outputs[0], torch.Tensor)


def test_an_error_of_python_in_a_capture_frees_its_pool_once(device, recorder):
    def fails(a):
        if device.under_way:
            raise MemoryError("out of memory")
        return (2 * a,)

    replays = Replays()
    assert [run(replays, fails, "fails") for _ in range(2)][1].endswith("out of memory)")
    assert device.now is device.main and not device.under_way
    assert set(device.pools.values()) == {0}


def test_what_fails_before_the_capture_is_waited_for_since_it_reads_the_inputs(device, recorder):
    def fails(a):
        if device.now is not device.main:
            raise MemoryError("out of memory")
        return (2 * a,)

    replays = Replays()
    assert "out of memory" in [run(replays, fails, "fails") for _ in range(2)][1]
    assert device.log == ["side waits for main", "main waits for side"]


def test_graphs_of_a_stream_share_a_pool_for_as_long_as_one_of_them_is_there(device, recorder):
    replays = Replays(most=2)
    for key in "ab":
        for _ in range(2):
            run(replays, key=key)
    assert list(device.pools.values()) == [2]
    for key in "cd":  # not recorded yet, and yet these are the last that were met
        run(replays, key=key)
    assert list(device.pools.values()) == [0]
    for _ in range(2):
        assert run(replays) == ""
    assert list(device.pools.values()) == [0, 1]


def test_outputs_that_are_to_stay_are_not_in_the_pool(device, recorder):
    first, second = (recorder.record(doubled, (torch.ones(2),), alone=True) for _ in range(2))
    assert list(device.pools.values()) == [2]
    others = recorder.record(doubled, (torch.ones(2),))
    assert list(device.pools.values()) == [2, 1]
    graph = first.replay.__self__
    made = {t.untyped_storage()._cdata for *_, out in graph.captured.again
            if isinstance(out, torch.Tensor) for t in [out]}  # fmt: skip
    assert first.outputs[0].untyped_storage()._cdata not in made
    first.inputs[0].fill_(5.0)
    first.replay()
    second.replay()
    others.replay()
    assert float(first.outputs[0][0]) == 10 and float(second.outputs[0][0]) == 2


def test_a_first_try_on_a_device_is_not_cut_short_by_another_thread(device, monkeypatch):
    made, held = _Graphs(), []
    monkeypatch.setattr(cuda, "_trial", lambda device: held.append(made._lock._is_owned()) or "")
    assert made.obstacle(torch.device("cuda", 0)) == ""
    assert held == [True] and not made._lock._is_owned()


def test_while_another_thread_records_nobody_waits_and_it_is_tried_again(device, recorder):
    """That thread's capture may hold a backward pass, which needs the thread that would wait."""
    entered, leave = threading.Event(), threading.Event()

    def slow(a):
        entered.set()
        assert leave.wait(10)
        return (2 * a,)

    thread = threading.Thread(target=recorder.record, args=(slow, (torch.ones(2),)))
    thread.start()
    assert entered.wait(10)
    try:
        assert "another thread" in _Graphs.obstacle(recorder, torch.device("cuda", 0))
        with pytest.raises(BusyError):
            recorder.record(doubled, (torch.ones(2),))
        replays = Replays()
        assert [run(replays) for _ in range(3)] == [""] * 3
        assert not any(map(replays.known, list(replays._known)))
    finally:
        leave.set()
        thread.join()
    assert run(replays) == "" and any(map(replays.known, list(replays._known)))
