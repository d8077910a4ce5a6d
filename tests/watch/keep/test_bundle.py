"""Bundles: read as they were written, refused where they were cut or changed, never by halves."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from throughtime.errors import BundleError, FileError, KeepWarning
from throughtime.watch.keep import Bundle, Keeper, read_bundle, write_bundle
from throughtime.watch.keep.bundle import named_tensors
from throughtime.watch.keep.folders import clear_partial_folders, writing_folder
from throughtime.watch.keep.nested import lost, same_form, taken_apart
from throughtime.watch.keep.randomness import Randomness

Pair = namedtuple("Pair", "first second")


@dataclass
class Record:
    x: Tensor
    lengths: list[int]
    name: str = "a"


def a_bundle(batch: Any = None, step: int = 3) -> Bundle:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    nestings = {} if batch is None else {"batch": taken_apart(batch)}
    return Bundle(step, named_tensors(model), Randomness.now(), nestings, {"loss": [float("nan")]})


# --- nestings ----------------------------------------------------------------------------------


def through_a_file(batch: Any, folder: Path, like: Any = None) -> Any:
    path = write_bundle(a_bundle(batch), folder / "b")
    return read_bundle(path).nestings["batch"].together(like)


def test_a_batch_comes_back_in_its_form_and_with_its_bits(tmp_path):
    x, half = torch.randn(4, 3), torch.randn(5).to(torch.bfloat16)
    batch = {
        "pair": Pair(x, (half, [None, True, 3, "word"])),
        2: {"inf": float("-inf"), "nan": [float("nan"), 0.1]},
        "same": x,
        "array": np.arange(6).reshape(2, 3),
        "kinds": [x.to(torch.complex64) * 1j, x > 0, torch.tensor(7), torch.empty(0, 3), x.T],
        "nothing": [(), {}, []],
    }
    found = through_a_file(batch, tmp_path)
    assert list(found) == list(batch) and torch.equal(found["pair"].first, x)
    assert torch.equal(found["pair"].second[0], half) and found["pair"].second[1][1:] == [
        True,
        3,
        "word",
    ]
    assert found[2]["inf"] == float("-inf") and found[2]["nan"][1] == 0.1
    assert found["same"] is found["pair"].first, "one tensor became two"
    assert np.array_equal(found["array"], batch["array"])
    assert all(map(torch.equal, found["kinds"], batch["kinds"]))
    assert found["nothing"] == [(), {}, []]


def test_classes_come_from_a_batch_of_the_same_form(tmp_path):
    batch = [Record(torch.ones(2), [2, 1]), Pair(torch.zeros(1), 5)]
    found = through_a_file(batch, tmp_path)
    assert found[0].lengths == [2, 1] and found[1].second == 5
    like = [Record(torch.zeros(9), [9]), Pair(torch.zeros(9), 9)]
    found = read_bundle(tmp_path / "b").nestings["batch"].together(like)
    assert isinstance(found[0], Record) and isinstance(found[1], Pair)
    assert torch.equal(found[0].x, torch.ones(2)) and found[0].name == "a"


def test_a_packed_sequence_comes_back(tmp_path):
    packed = pack_padded_sequence(
        torch.randn(5, 3, 2), torch.tensor([3, 5, 1]), enforce_sorted=False
    )
    found = through_a_file((packed, torch.ones(1)), tmp_path)[0]
    assert isinstance(found, PackedSequence)
    assert all(map(torch.equal, found, packed))


def test_what_cannot_be_held_is_named_and_taken_from_the_other_batch():
    plan, tensors = taken_apart([torch.ones(1), object(), {1, 2}])
    assert lost(plan) == ["object", "set"] and len(tensors) == 1
    assert same_form(plan, taken_apart([torch.ones(9), 3, 4]).plan)
    assert not same_form(plan, taken_apart([torch.ones(9), 3]).plan)


def test_weights_come_back_tied_and_whole(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    path = write_bundle(Bundle(1, named_tensors(model), Randomness.now()), tmp_path / "b")
    other = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    read_bundle(path).load(other)
    assert all(map(torch.equal, other.state_dict().values(), model.state_dict().values()))


def test_the_random_state_comes_back(tmp_path):
    random.gauss(0, 1), np.random.randn()
    path = write_bundle(a_bundle(), tmp_path / "b")
    first = torch.rand(3), random.gauss(0, 1), np.random.randn(3), random.random()
    read_bundle(path).randomness.restore()
    again = torch.rand(3), random.gauss(0, 1), np.random.randn(3), random.random()
    assert torch.equal(first[0], again[0]) and first[1::2] == again[1::2]
    assert np.array_equal(first[2], again[2])


def test_nothing_in_it_is_a_pickle(tmp_path):
    path = write_bundle(a_bundle([torch.ones(2)]), tmp_path / "b")
    names = sorted(file.name for file in path.iterdir())
    assert [name for name in names if not name.endswith(".safetensors")] == ["bundle.json"]
    index = json.loads((path / "bundle.json").read_text())
    assert index["version"] == 1 and index["loss"] == ["nan"]


# --- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors", "batch.safetensors"])
@pytest.mark.parametrize("how", ["cut", "changed", "longer", "empty", "missing"])
def test_a_bundle_that_was_cut_or_changed_is_one_sentence(tmp_path, name, how):
    path = write_bundle(a_bundle([torch.ones(40)]), tmp_path / "b")
    file = path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    whole = file.read_bytes()
    file.write_bytes(
        {"cut": whole[:-7], "changed": bytes(content), "longer": whole + b" ", "empty": b""}.get(
            how, b""
        )
    )
    if how == "missing":
        file.unlink()
    if (name, how) == ("bundle.json", "longer"):
        assert read_bundle(path).step == 3  # a blank says nothing else
        return
    with pytest.raises((BundleError, FileError)) as error:
        read_bundle(path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_every_byte_counts(tmp_path):
    path = write_bundle(a_bundle([torch.ones(2)]), tmp_path / "b")
    generator = random.Random(0)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for _ in range(20):
            changed = bytearray(whole)
            changed[generator.randrange(len(whole))] ^= 1 << generator.randrange(5)
            file.write_bytes(bytes(changed))
            try:
                found = read_bundle(path)
            except (BundleError, FileError):
                continue
            assert file.name == "bundle.json" and found.step == 3, "a blank at most"
        file.write_bytes(whole)


def test_other_versions_and_programs_are_refused(tmp_path):
    path = write_bundle(a_bundle(), tmp_path / "b")
    index = json.loads((path / "bundle.json").read_text())
    for change, words in (({"version": 99}, "version 99"), ({"format": "other"}, "no bundle")):
        (path / "bundle.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(BundleError, match=words):
            read_bundle(path)
    with pytest.raises(FileError, match="there is no bundle"):
        read_bundle(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(2, 3)), "no '1.bias'"),
        (nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)), r"\(4, 2\) float32 here and \(3, 2\)"),
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double(), "float64 here"),
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(1, 1)), "beside what is kept"),
    ],
)
def test_another_model_is_refused_and_left_as_it_was(tmp_path, model, words):
    bundle = read_bundle(write_bundle(a_bundle(), tmp_path / "b"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BundleError, match=words):
        bundle.load(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- whole or not at all -----------------------------------------------------------------------

# One process, so that torch is imported once; it forks a writer, and kills it, several times.
WRITERS = """
import os, random, signal, sys, time, torch
from pathlib import Path
from throughtime.watch.keep import Bundle, write_bundle
from throughtime.watch.keep.randomness import Randomness
torch.set_num_threads(1)
weights = {str(i): torch.full((200, 200), float(i)) for i in range(20)}
generator = random.Random(1)
for trial in range(5):
    reading, writing = os.pipe()
    writer = os.fork()
    if not writer:
        for step in range(10**9):
            path = Path(sys.argv[1], str(trial), f"step-{step}")
            write_bundle(Bundle(step, weights, Randomness.now()), path)
            os.write(writing, b".")
    os.close(writing)
    told = os.read(reading, 1)
    time.sleep(generator.uniform(0.0, 0.1))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    while more := os.read(reading, 1000):
        told += more
    print(len(told))
"""


def test_a_writer_that_is_killed_leaves_whole_bundles_and_no_parts(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    parts = 0
    for trial, told in enumerate(map(int, done.stdout.split())):
        folder = tmp_path / str(trial)
        found = sorted(folder.glob("step-*"))
        parts += len(list(folder.iterdir())) - len(found)
        assert len(found) in (told, told + 1)
        for path in found:
            bundle = read_bundle(path)
            assert path.name == f"step-{bundle.step}"
            assert all(bool((w == float(n)).all()) for n, w in bundle.weights.items())
        Keeper(nn.Linear(1, 1), folder)
        assert sorted(folder.iterdir()) == found, "the next start left a part"
    assert parts > 0, "no writer was killed while it wrote"


def test_a_part_that_is_being_written_stays(tmp_path):
    with writing_folder(tmp_path / "a") as part:
        assert clear_partial_folders(tmp_path) == [] and part.exists()
    (tmp_path / ".b.01234567.part").mkdir()
    (tmp_path / ".mine.part").mkdir()
    assert [path.name for path in clear_partial_folders(tmp_path)] == [".b.01234567.part"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.part", "a"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), writing_folder(tmp_path / "a") as part:
        (part / "file").write_text("half")
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    write_bundle(a_bundle(), tmp_path / "a")
    with pytest.raises(FileError, match="something of that name"):
        write_bundle(a_bundle(), tmp_path / "a")


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")]
)
def test_what_wraps_a_model_is_not_in_its_bundle(tmp_path, wrap):
    wrapped = wrap(nn.Sequential(nn.Linear(2, 1)))
    keeper = Keeper(wrapped, tmp_path)
    keeper.before(1)
    with pytest.warns(KeepWarning, match="The loss of step 1 is -?inf"):
        keeper.after(wrapped(torch.ones(3, 2)).sum() / 0)
    read_bundle(keeper.bundle).load(nn.Sequential(nn.Linear(2, 1)))  # pyright: ignore
