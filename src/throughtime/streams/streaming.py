"""Training on a sequence that does not fit, or has no end: in segments, the state carried on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, overload

from torch import Tensor, nn

from ..errors import (
    CheckpointError,
    InputTypeError,
    InputValueError,
    UnsupportedError,
)
from ..torch_state import ReturningHook
from .carried import (
    State,
    carried_layers,
    check_kind,
    check_mask,
    check_rows,
    check_unrecorded,
    each,
    time_axis,
    title,
)
from .cutting import P, Segments, W
from .overlapping import Tail, without_overlap

__all__ = ["Stream", "stream"]


@overload
def stream(
    model: nn.Module,
    source: W,
    *,
    window: int | None = None,
    detach: bool = True,
    reset: Tensor | int | str | None = None,
    batch_first: bool | None = None,
    overlap: int = 0,
) -> Stream[W]: ...
@overload
def stream(
    model: nn.Module,
    source: Iterable[P],
    *,
    window: int | None = None,
    detach: bool = True,
    reset: Tensor | int | str | None = None,
    batch_first: bool | None = None,
    overlap: int = 0,
) -> Stream[P]: ...
def stream(
    model: nn.Module,
    source: Any,
    *,
    window: int | None = None,
    detach: bool = True,
    reset: Tensor | int | str | None = None,
    batch_first: bool | None = None,
    overlap: int = 0,
) -> Stream[Any]:
    """Go through a sequence in segments, carrying the state of every recurrent layer on (eq. 1).

    In the loop's body each recurrent layer of ``model``, called without a state, begins from the
    one it had at the end of the segment before. Every call of the model on a segment begins from
    there; the last one's state is carried on. Outside the body the model is as it was, also after
    a ``break`` or an error.

    Args:
        model: any module that holds `nn.RNN`, `nn.LSTM`, `nn.GRU` or layers of this package, in
            one direction, or is one.
        source: tensors (T, B, ·), alone or in a tuple or dict that is cut alike (inputs, targets);
            or pieces of such a sequence in the order of time: a list, a generator, a data loader.
            Pieces are cut and joined; none is asked for before it is needed.
        window: steps a segment, the last one being what is left; None: pieces as they come.
        detach: whether the gradient ends where a segment begins. Without, the graph grows until
            ``backward()``, and the gradient is that of the whole.
        reset: (T, B) bool; where True the row's state is zeroed before that step. Or the key or
            position of such a mask in the source or in each piece. Needs layers of this package.
        batch_first: whether all that is cut, masks too, is (B, T, ·). None: as the model's layers
            have it; only where some have it and some not must it be said.
        overlap: how many steps a loss looks ahead. The last so many steps of a segment are the
            next one's first, which begins from the state before them. The losses of a segment are
            those of its first ``stream.own`` steps: all but the overlap, and all in the last.

    Returns:
        A `Stream`: an iterable over segments, each built as the source or its pieces are.

    Raises:
        InputValueError: ``window`` is below 1, or ``overlap`` not below it; ``batch_first``
            contradicts the layers, or they disagree and it is not said; or a mask that is not
            there.
        InputTypeError: no module, no integer, or something else than tensors.
        ShapeError: tensors without a time axis or step, or with different numbers of steps.
        DtypeError: a mask that is not bool.
        LayerNotFoundError: ``model`` holds no recurrent layer.
        UnsupportedError: a reverse direction, or a recurrence whose state cannot be carried.

    What is promised of ``overlap=c``, for losses E_t of the outputs at t … t + c: each E_t is
    counted in exactly one segment, with the value that it has on the whole sequence; its gradient
    is exact back to the first step of that segment, also by way of the steps it looks ahead to; and
    with ``detach=False`` the sum over segments has the gradient of the whole.

    Cost:
        memory of one segment with ``detach``; with ``overlap`` that many steps a segment twice.

    Example:
        >>> model = torch.nn.Sequential(tt.LSTM(3, 5))
        >>> x, y = torch.randn(50, 2, 3), torch.randn(50, 2, 5)
        >>> for x_part, y_part in tt.stream(model, (x, y), window=20):
        ...     output, _ = model(x_part)
        ...     (output - y_part).pow(2).mean().backward()
        >>> output.shape
        torch.Size([10, 2, 5])

        A loss that looks two steps ahead:

        >>> segments = tt.stream(model, x, window=20, overlap=2)
        >>> for part in segments:
        ...     output, _ = model(part)
        ...     (output[2:] - output[:-2])[: segments.own].pow(2).sum().backward()
    """
    return Stream(model, source, window, detach, reset, batch_first, overlap)


class Stream(Generic[P]):
    """The segments of a sequence, and the state between them; `stream` makes one.

    A loop over it goes on where the last one stopped. After one that came to the end it begins
    anew, from zero state.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Any,
        window: int | None = None,
        detach: bool = True,
        reset: Tensor | int | str | None = None,
        batch_first: bool | None = None,
        overlap: int = 0,
    ) -> None:
        """Take what `stream` takes."""
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
        if not isinstance(detach, bool):
            raise InputTypeError(f"detach must be True or False; got {detach!r}.")
        self.model, self.detach = model, detach
        self._layers = carried_layers(model, reset is not None)
        batch_first = time_axis(self._layers, batch_first)
        self._paired, self._key, self._turned = isinstance(reset, Tensor), reset, batch_first
        whole = isinstance(source, (Tensor, tuple, Mapping))
        if self._paired and not whole:
            raise InputValueError(
                "reset is one mask but the source comes in pieces; put a mask into every piece and "
                "give its key or position: reset=1."
            )
        if isinstance(reset, bool):
            raise InputTypeError(f"reset must be a mask, or its key or position; got {reset}.")
        if self._paired:
            check_mask(reset, source, batch_first)
        cut = (source, reset) if self._paired else source
        self._segments = Segments(cut, window, batch_first, overlap)
        self._state: dict[str, State] = {}
        self._after: dict[str, State] = {}
        self._runs: dict[str, int] = {}
        self._mask: Tensor | None = None
        self._parts: tuple[int, int] | None = None  # a segment's own steps, of so many in all
        self._tails: dict[str, Tail] = {}
        self._segment: Any = None
        self._hooks: list[Any] = []
        self._givers: dict[str, ReturningHook] = {}
        self._ended = self._running = False

    @property
    def steps(self) -> int:
        """How many steps the model has been given, the current segment included.

        Those that come again in the next one do not count.
        """
        return self._segments.steps

    @property
    def own(self) -> int:
        """How many of the current segment's steps are its own; the others come again."""
        return self._segments.own

    @property
    def state(self) -> dict[str, State]:
        """What is carried on: each layer's state, by its path as ``named_modules`` gives it.

        A layer that ran twice in a call of the model has a second state, ``"path@2"``.
        """
        return {**self._state, **self._after}

    def __iter__(self) -> Iterator[P]:
        """Go through the segments.

        Yields:
            A segment, built as the source or its pieces are.

        Raises:
            InputValueError: another loop is under way, or a generator has no more to give.
        """
        if self._running:
            raise InputValueError("this stream is being gone through already; make a second one.")
        if self._ended:
            self.rewind()
        self._running = True
        try:
            # Between two bodies the source runs, and may itself run the model: as it is.
            for found in self._segments:
                self._segment = found
                segment = self._enter(found)
                length = self._segments.length(found)
                self._parts = (self.own, length) if self.own < length else None
                self._attach()
                yield segment
                self._leave()
            self._ended = True
        finally:
            self._leave()
            self._running = False

    def rewind(self) -> None:
        """Begin anew: the first segment again, from zero state.

        Raises:
            InputValueError: the source is a generator, which cannot be gone through again.
        """
        if not self._segments.repeatable:
            raise InputValueError(
                "the source is a generator and has been gone through; make a new stream over a "
                "new one."
            )
        self._segments.begin()
        self._state, self._after, self._ended = {}, {}, False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the model as it is for a while: for a look at other data within the loop."""
        attached = bool(self._hooks)
        self._release()
        try:
            yield
        finally:
            if attached:
                self._attach()

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on later: states, the step reached, what is left of a piece.

        Within the loop's body that is the state after this segment, or before it where the model
        has not yet run on it.
        """
        begun = self._segment is not None and not self._after
        current = [self._segments.owned(self._segment)] if begun else []
        steps = self.steps - (self.own if begun else 0)
        rest = [] if self._segments.repeatable else [*current, *self._segments.held]
        copies = {name: each(lambda s: s.detach().clone(), s) for name, s in self.state.items()}
        return {"steps": steps, "state": copies, "rest": rest}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called.

        A tensor or a list is gone on with at that step. A generator is taken from where it stands,
        after what was left of the last piece.

        Args:
            content: what `state_dict` gave.

        Raises:
            CheckpointError: it is of another model. Nothing was loaded.
            InputValueError: a loop is under way.
        """
        if self._running:
            raise InputValueError("a state is loaded before the loop, not within it.")
        wanted = {"steps": int, "state": dict, "rest": list}
        got = content if isinstance(content, Mapping) else {}
        if not all(isinstance(got.get(key), kind) for key, kind in wanted.items()):
            told = ", ".join(f"{name}: {type(part).__name__}" for name, part in got.items())
            raise CheckpointError(
                "a stream's state has steps: int, state: dict, rest: list; got "
                f"{told or type(content).__name__}. Nothing was loaded."
            )
        unknown = [name for name in content["state"] if name.split("@")[0] not in self._layers]
        if unknown:
            raise CheckpointError(
                f"the state of a layer {unknown[0]!r} was saved; this model has "
                f"{', '.join(map(repr, self._layers))}. Nothing was loaded."
            )
        for name, state in content["state"].items():
            layer = self._layers[name.split("@")[0]]
            check_kind(title(name, layer), layer, state)
        self._segments.begin(content["steps"], content["rest"])
        self._state, self._after, self._ended = dict(content["state"]), {}, False

    def _enter(self, found: Any) -> Any:
        """Take the mask out of a segment."""
        segment, mask = found if self._paired else (found, None)
        if self._key is not None and not self._paired:
            try:
                mask = segment[self._key]
            except (KeyError, IndexError, TypeError) as error:
                raise InputValueError(
                    f"reset={self._key!r} names no part of the segments, which are of type "
                    f"{type(segment).__name__}."
                ) from error
            check_mask(mask, segment, self._turned)
        self._mask = mask.t().contiguous() if mask is not None and self._turned else mask
        return segment

    def _leave(self) -> None:
        """Take the hooks off, and carry on what the layers ended with."""
        self._release()
        carried = self.state
        if self.detach:
            carried = {name: each(Tensor.detach, state) for name, state in carried.items()}
        self._state, self._after, self._mask, self._segment = carried, {}, None, None
        self._tails.clear()

    def _attach(self) -> None:
        self._hooks.append(self.model.register_forward_pre_hook(self._begin_call))
        for name, layer in self._layers.items():
            layer.streamed = True  # pyright: ignore[reportArgumentType]
            if name not in self._givers:
                self._givers[name] = ReturningHook(layer, self._give(name))
            self._hooks += [
                self._givers[name].attach(),
                # Before the user's own hooks, so that they see the output of all steps.
                layer.register_forward_hook(self._take(name), prepend=True),
            ]
        self._hooks.append(self.model.register_forward_hook(self._end_call))

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for layer in self._layers.values():
            layer.__dict__.pop("streamed", None)

    def _begin_call(self, module: nn.Module, args: Any) -> None:
        self._runs.clear()
        self._after.clear()

    def _end_call(self, module: nn.Module, args: Any, output: Any) -> None:
        """Refuse a model that goes past its layers' hooks: it would forget without a word."""
        if not self._after:
            raise UnsupportedError(
                "the model ran, but none of its recurrent layers was called as a module, so no "
                "state was carried. Call layer(x), not layer.forward(x), or carry hx by hand: "
                "tt.segments(source, window)."
            )

    def _give(self, name: str):
        """Make the hook that hands a layer its state and the resets."""

        def give(layer: nn.Module, args: tuple, kwargs: dict[str, Any]):
            check_unrecorded(title(name, layer), (*args, *kwargs.values()))
            for given, value in (
                ("hx", args[1] if len(args) > 1 else kwargs.get("hx")),
                ("reset", None if self._mask is None else kwargs.get("reset")),
            ):
                if value is not None:
                    raise InputValueError(
                        f"{title(name, layer)} was called with {given}=, which the stream gives "
                        "it; call it without, or carry hx by hand: tt.segments(source, window)."
                    )
            self._runs[name] = self._runs.get(name, 0) + 1
            state = self._state.get(self._slot(name))
            if state is not None:
                input = args[0] if args else kwargs.get("input")
                check_rows(title(name, layer), layer, input, state)
            more = {} if self._mask is None else {"reset": self._mask}
            args, kwargs = args[:1], {**kwargs, **more, "hx": state}
            if self._parts is not None:
                at = title(name, layer), layer, *self._parts
                args, kwargs, self._tails[self._slot(name)] = without_overlap(*at, args, kwargs)
            return args, kwargs

        return give

    def _take(self, name: str):
        """Make the hook that keeps a layer's state after a segment's own steps.

        The layer takes the steps that come again in a second call, from that state.
        """

        def take(layer: nn.Module, args: Any, output: tuple[Any, State]) -> Any:
            self._after[self._slot(name)] = output[1]
            if self._parts is None:
                return None
            return self._tails.pop(self._slot(name)).after(layer, *output)

        return take

    def _slot(self, name: str) -> str:
        return name if self._runs[name] == 1 else f"{name}@{self._runs[name]}"
