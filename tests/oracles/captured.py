"""What a CUDA graph would do, on a CPU: operations recorded once and done again in their memory.

Recording fails where a capture on a device would: where a value is looked at, random numbers are
drawn, or numbers of Python become a tensor. A replay runs each operation on the very tensors that
it had, so that whoever reads a tensor that was not copied in reads what it held then.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from throughtime import replays
from throughtime.replays import WorkRecording

FORBIDDEN = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape,
             torch.Tag.nondeterministic_seeded}  # fmt: skip
UNDER_WAY: list[Captured] = []


def tensors(tree) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for part in tree for t in tensors(part)] if isinstance(tree, (list, tuple)) else []


class Captured(TorchDispatchMode):
    """Records what runs inside; ``replay`` does it again."""

    def __init__(self) -> None:
        super().__init__()
        self.again: list = []

    def __enter__(self):
        UNDER_WAY.append(self)
        return super().__enter__()

    def __exit__(self, *told):
        UNDER_WAY.remove(self)
        return super().__exit__(*told)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func).split(".")[1]
        moves = name == "_to_copy" and kwargs.get("device") is not None
        if FORBIDDEN & set(func.tags) or name.startswith("lift_fresh") or moves:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        given = {t.untyped_storage()._cdata for t in tensors((args, kwargs))}
        out = func(*args, **kwargs)
        made = [t for t in tensors(out) if t.untyped_storage()._cdata not in given]
        if func._schema.is_mutable or (made and not name.startswith(("empty", "new_empty"))):
            self.again.append((func, args, kwargs, out))
        elif made:  # new memory holds anything
            self.again.append((torch.ops.aten.fill_, (made[0], float("nan")), {}, None))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self.again:
                if func is torch.ops.aten.fill_:
                    if args[0].is_floating_point():
                        args[0].fill_(args[1])
                    continue
                new = func(*args, **kwargs)
                if not getattr(func, "_schema", None) or func._schema.is_mutable:
                    continue
                for kept, value in zip(tensors(out), tensors(new), strict=True):
                    kept.copy_(value)


class Launched:
    """A Triton kernel whose launches are recorded with the operations around them."""

    def __init__(self, kernel) -> None:
        self.kernel, self.count = kernel, 0

    def __getitem__(self, grid):
        def launch(*args, **options) -> None:
            self.count += 1
            with _disable_current_modes():  # the interpreter copies with operations of torch
                self.kernel[grid](*args, **options)
            if UNDER_WAY:
                UNDER_WAY[-1].again.append((self.kernel[grid], args, options, None))

        return launch


class Captures(replays.WorkRecorder):
    """Records as torch's CUDA graphs do, on any device, and counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def obstacle(self, device) -> str:
        return ""

    def record(self, work, inputs, *, alone=False) -> WorkRecording:
        work(*inputs)  # as on the side stream
        with Captured() as captured:
            outputs = work(*inputs)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            captured.replay()

        return WorkRecording(inputs, outputs, replay)


class Again(replays.WorkRecorder):
    """Records work by doing it anew over the inputs it was given."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def obstacle(self, device) -> str:
        return ""

    def record(self, work, inputs, *, alone=False) -> WorkRecording:
        self.log.append("recorded")
        outputs = work(*inputs)

        def replay() -> None:
            self.log.append("replayed")
            for kept, new in zip(outputs, work(*inputs), strict=True):
                if kept is not None:
                    kept.copy_(new)

        return WorkRecording(inputs, outputs, replay)
