"""What torch is doing around a call, and what it has no public function for.

Nothing else asks `torch._C`, so that a new version of torch is checked against one file. The few
other private names, as those of its recurrent modules, stand where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.hooks import RemovableHandle

__all__ = [
    "ReturningHook",
    "backward_node",
    "clear_workspaces",
    "current_stream",
    "end_capture",
    "is_autocast",
    "is_batched",
    "is_exported",
    "is_faked",
    "is_jit_traced",
    "is_on_gpu",
    "is_open",
    "is_to_onnx",
    "is_transformed",
    "is_transforming",
    "is_watched",
    "keeps_graph",
    "only_maps",
    "products_in_tf32",
    "rounding",
    "sequence_number",
]


def is_transforming() -> bool:
    """Check whether a transform of `torch.func` is at work."""
    return torch._C._are_functorch_transforms_active()


def is_jit_traced() -> bool:
    """Check whether `torch.jit.trace` is recording."""
    return torch._C._get_tracing_state() is not None


def is_exported() -> bool:
    """Check whether `torch.export` is at work, also by way of a compiler: ``strict=True``."""
    # Not `torch.compiler.is_exporting`, which dynamo of torch 2.8 takes for True.
    return torch.compiler._is_exporting_flag


# Or dynamo takes it for False. `torch.compiler.assume_constant_result` sets the same mark, and
# imports the compiler, which takes a second.
is_exported._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def is_open(size: object) -> bool:
    """Check whether an exporter leaves a size open, to be any number."""
    if not isinstance(size, torch.SymInt):
        return False
    from torch.fx.experimental.symbolic_shapes import is_concrete_int  # sympy takes a second

    return not is_concrete_int(size)


def is_autocast(tensor: Tensor) -> bool:
    """Check whether autocast is on where a tensor is; it knows no meta device."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def is_on_gpu(tensor: Tensor) -> bool:
    """Check whether a tensor is where torch's recurrent modules run on cuDNN or its like.

    Whatever is otherwise on a GPU than on a CPU asks here.
    """
    return tensor.is_cuda


def is_to_onnx() -> bool:
    """Check whether `torch.onnx.export` is at work."""
    return torch.onnx.is_in_onnx_export()


is_to_onnx._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def is_transformed(inputs: tuple[Tensor | None, ...]) -> bool:
    """Check whether `torch.func`, forward mode or `torch.jit.trace` has to see the operations."""
    # Every call of a layer asks; two more calls of functions would be a tenth of a µs.
    if torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None:
        return True
    if forward_ad._current_level < 0:
        return False
    return any(i is not None and forward_ad.unpack_dual(i).tangent is not None for i in inputs)


def only_maps() -> bool:
    """Check whether vmap alone is at work, which asks for no gradient."""
    if forward_ad._current_level >= 0:
        return False
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    stack = functorch.get_interpreter_stack() or []
    return all(level.key() == functorch.TransformType.Vmap for level in stack)


def is_batched(tensor: Tensor | None) -> bool:
    """Check whether a tensor is a batch that vmap hides behind one tensor.

    Both kinds are met; ``is_grads_batched`` of `torch.autograd.grad` makes the older one.
    """
    if tensor is None:
        return False
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def is_faked(like: Tensor) -> bool:
    """Check whether a mode such as torch's FakeTensorMode makes new tensors without memory."""
    return torch._C._len_torch_dispatch_stack() > 0 and type(like.new_empty(0)) is not Tensor


def is_watched() -> bool:
    """Check whether a mode looks at the operations in Python, as torch's counter of FLOPs does."""
    return torch._C._len_torch_dispatch_stack() > 0


def products_in_tf32() -> bool:
    """Check whether products of matrices on a GPU may round to TF32.

    The older switch must not be read where somebody has used the newer one.
    """
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if newer is None else newer == "tf32"


def rounding() -> tuple[Any, ...]:
    """Return the switches by which the same operations on a GPU round in another way."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    newer = getattr(cudnn, "fp32_precision", None)
    return (
        products_in_tf32(),
        cudnn.allow_tf32 if newer is None else newer,
        cudnn.deterministic,
        cudnn.enabled,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
        torch.are_deterministic_algorithms_enabled(),
    )


def current_stream(device: torch.device) -> int:
    """Return on which stream of a device work is put now; 0 where there are none."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def end_capture(device: torch.device, pool: Any) -> None:
    """Tell the allocator of a GPU that a capture into a pool is over, and that no graph holds it.

    Where it was told already, it raises.
    """
    torch._C._cuda_endAllocateToPool(device.index, pool)
    torch._C._cuda_releasePool(device.index, pool)


def clear_workspaces() -> None:
    """Let cuBLAS allocate its workspaces anew, on every stream."""
    getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()


def sequence_number(node: Any) -> int:
    """Return when a node of autograd's graph was made: later ones in a thread have larger ones."""
    return node._sequence_nr()


def backward_node() -> Any | None:
    """Return the node of autograd's graph whose backward pass is at work; None outside of one."""
    return torch._C._current_autograd_node()


def keeps_graph() -> bool:
    """Check whether the backward pass at work retains its graph; True outside of one."""
    return torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore


class ReturningHook:
    """A forward pre-hook with keyword arguments that comes and goes under one number.

    The compiler of torch 2.8 compiles again where the number of such a hook is another one.
    """

    def __init__(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Register nothing yet.

        Args:
            module: what is hooked.
            hook: called with the module, its positional and its keyword arguments.
        """
        self.module, self.hook = module, hook
        self.handle: RemovableHandle | None = None

    def attach(self) -> RemovableHandle:
        """Register the hook, behind those that are there; return what removes it."""
        if self.handle is None:
            self.handle = self.module.register_forward_pre_hook(self.hook, with_kwargs=True)
        else:
            self.module._forward_pre_hooks[self.handle.id] = self.hook
            self.module._forward_pre_hooks_with_kwargs[self.handle.id] = True
        return self.handle
