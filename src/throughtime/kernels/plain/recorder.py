"""What one step does below autograd, recorded so that its backward pass can run without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Follower", "Program", "Recorder", "Refusal", "TensorNumber", "backward_program"]

_AT_MOST = 32  # how many compiled programs are kept
_COMPILED: dict[tuple[Any, ...], tuple[Any, Callable[..., Tensor]]] = {}
_VALUES_MATTER = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Refusal(Exception):  # noqa: N818 - caught within the package, where it becomes a reason
    """Why a step cannot be taken for many rows at once, or its backward pass replayed."""


class TensorNumber(NamedTuple):
    """A tensor's number, in the order in which operations met it."""

    number: int


class RecordedCall(NamedTuple):
    """One operation, with places for its tensors."""

    operation: Any
    args: Any
    kwargs: Any
    out: Any


class Recorder(TorchDispatchMode):
    """Records every operation of torch and numbers the tensors in the order in which it met them.

    Two runs of the same operations number their tensors alike, whatever the shapes.
    """

    def __init__(self, *inputs: Tensor) -> None:
        """Begin with the tensors that a step is given."""
        super().__init__()
        self.calls: list[RecordedCall] = []
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._same: dict[int, int] = {}
        # Nothing may be freed before the end, since another tensor could get its id.
        self._alive: list[Tensor] = []
        self.sources: list[Source] = []
        for at, tensor in enumerate(inputs):
            self.place(tensor, Source(-1, False, at))

    def place(self, tensor: Tensor, source: Source | None = None) -> TensorNumber:
        """Return a tensor's place, a new one if it was not met before."""
        number = self._numbers.setdefault(self._key(tensor), len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(tensor)
            self.sources.append(source or Source(-1, False, number))
        return TensorNumber(number)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run one operation and record it."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.detach.default:
            # Autograd detaches what it saved, and how often it does varies.
            self._same[id(out)] = self._key(args[0])
            self._alive += (out, args[0])
            return out
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Refusal(f"the step draws random numbers ({func})")
        if _VALUES_MATTER & set(func.tags):
            raise Refusal(f"the step looks at the values of a tensor ({func})")
        call = len(self.calls)
        for given, tree in ((False, (args, kwargs or {})), (True, out)):
            for at, tensor in enumerate(_tensors(tree)):
                self.place(tensor, Source(call, given, at))
        self.calls.append(RecordedCall(func, *map(self._placed, (args, kwargs or {}, out))))
        return out

    def _key(self, tensor: Tensor) -> int:
        return self._same.get(id(tensor), id(tensor))

    def _placed(self, tree: Any) -> Any:
        return _mapped(self.place, Tensor, tree)


class Source(NamedTuple):
    """Where a tensor can be found again, among an operation's arguments or its results.

    Attributes:
        call: the operation's number; -1 for what the step was given.
        given: whether the operation returned it, or took it.
        at: its number among those tensors.
    """

    call: int
    given: bool
    at: int


class Program(NamedTuple):
    """One step's backward pass, from delta_t to delta_{t-1}.

    Attributes:
        operations: those of the step itself, to recognise it.
        needs: where to find the tensors of the step that ``run`` takes after delta.
        kept: those tensors, as the recorded step left them.
        run: the function; None where s_t does not depend on s_{t-1}.
    """

    operations: list[Any]
    needs: list[Source]
    kept: list[Tensor]
    run: Callable[..., Tensor] | None


class Follower(TorchDispatchMode):
    """Follows a recorded step and keeps what its backward pass needs."""

    def __init__(self, program: Program, inputs: Sequence[Tensor]) -> None:
        """Take the program and the step's inputs, in the order in which they were recorded."""
        super().__init__()
        self.operations, self.call = program.operations, 0
        self.kept: list[Tensor | None] = [None] * len(program.needs)
        self.wanted: dict[int, list[tuple[int, Source]]] = {}
        for number, source in enumerate(program.needs):
            if source.call < 0:
                self.kept[number] = inputs[source.at]
            else:
                self.wanted.setdefault(source.call, []).append((number, source))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run one operation, which must be the one that was recorded."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.detach.default:
            return out
        if self.call == len(self.operations) or self.operations[self.call] is not func:
            raise Refusal(f"the step does other operations for more rows ({func})")
        for number, source in self.wanted.get(self.call, ()):
            self.kept[number] = _tensors(out if source.given else (args, kwargs or {}))[source.at]
        self.call += 1
        return out

    def tensors(self) -> list[Tensor]:
        """Return what was kept, once the step has ended.

        Raises:
            Refusal: it ended earlier than the recorded one.
        """
        if self.call != len(self.operations):
            raise Refusal("the step does fewer operations for more rows")
        return self.kept  # pyright: ignore[reportReturnType]


def backward_program(
    recorder: Recorder, step_calls: int, delta: TensorNumber, grad: Tensor | None
) -> Program:
    """Turn the operations that led from delta_t to delta_{t-1} into a function (eq. 9).

    Args:
        recorder: what was run: the step, then its backward pass.
        step_calls: how many of the calls are the step's.
        delta: the place of dE/ds_t, after those of the step's tensors.
        grad: dE/ds_{t-1}; None if s_t does not depend on s_{t-1}.

    Raises:
        Refusal: the backward pass writes into what the step left, or takes a tensor from
            elsewhere.
    """
    operations = [call.operation for call in recorder.calls[:step_calls]]
    calls = recorder.calls[step_calls:]
    _check_writes(recorder, calls, delta.number)
    made = {delta.number}
    needs: list[int] = []
    for call in calls:
        for leaf in _places((call.args, call.kwargs)):
            if leaf < delta.number and leaf not in needs:
                needs.append(leaf)
            elif leaf > delta.number and leaf not in made:
                raise Refusal(f"the backward pass ({call.operation}) takes a tensor of its own")
        made.update(_places(call.out))
    sources = [recorder.sources[number] for number in needs]
    kept = [recorder.tensors[number].detach() for number in needs]
    if grad is None:
        return Program(operations, sources, kept, None)
    end = recorder.place(grad)
    # Recording is quick, compiling is not: equal programs, constants included, are compiled once.
    key, made_of = tuple(call.operation for call in calls), (calls, needs, delta, end)
    if key not in _COMPILED or _COMPILED[key][0] != made_of:
        while len(_COMPILED) >= _AT_MOST:
            _COMPILED.pop(next(iter(_COMPILED)), None)
        _COMPILED[key] = made_of, _function(calls, needs, delta, end)
    return Program(operations, sources, kept, _COMPILED[key][1])


# Operations' arguments and results are hardly nested, and torch's own pytree is slow here.
def _leaves(kind: type, tree: Any) -> list[Any]:
    if isinstance(tree, kind):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return [leaf for part in tree for leaf in _leaves(kind, part)]
    return []


def _mapped(function: Callable, kind: type, tree: Any) -> Any:
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _mapped(function, kind, part) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)([_mapped(function, kind, part) for part in tree])
    return tree


def _tensors(tree: Any) -> list[Tensor]:
    return _leaves(Tensor, tree)


def _places(tree: Any) -> list[int]:
    return [place.number for place in _leaves(TensorNumber, tree)]


def _check_writes(recorder: Recorder, calls: list[RecordedCall], first: int) -> None:
    """Refuse a backward pass that writes into delta or the step's tensors, which others need."""
    kept = {t.untyped_storage()._cdata for t in recorder.tensors[: first + 1]}
    for call in calls:
        if call.operation._schema.is_mutable:
            into = recorder.tensors[_places(call.out)[0]]
            if into.untyped_storage()._cdata in kept:
                raise Refusal(
                    f"the backward pass writes into what the step left ({call.operation})"
                )


def _function(
    calls: list[RecordedCall], needs: list[int], delta: TensorNumber, grad: TensorNumber
) -> Callable:
    graph = fx.Graph()
    nodes: dict[int, fx.Node] = {delta.number: graph.placeholder("delta")}
    for at, number in enumerate(needs):
        nodes[number] = graph.placeholder(f"kept_{at}")

    def filled(tree: Any) -> Any:
        return _mapped(lambda place: nodes[place.number], TensorNumber, tree)

    for call in calls:
        node = graph.call_function(call.operation, filled(call.args), filled(call.kwargs))
        if isinstance(call.out, TensorNumber):
            nodes[call.out.number] = node
            continue
        for at, out in enumerate(call.out):
            if isinstance(out, TensorNumber):
                nodes[out.number] = graph.call_function(_item, (node, at))
    if grad.number not in nodes:
        raise Refusal("the backward pass ends in a tensor of its own")
    graph.output(nodes[grad.number])
    graph.eliminate_dead_code()
    return fx.GraphModule(torch.nn.Module(), graph).forward


def _item(of: Any, at: int) -> Any:
    return of[at]
