"""What a layer tells the tools of torch that read its Python or record its run."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import UnsupportedError
from ..node.jit_trace import refuse_the_older_exporter

__all__ = ["Unscriptable"]


class Unscriptable(nn.Module):
    """A module that `torch.jit.script` and ONNX's older exporter refuse in words of this package.

    Both would otherwise end in an error about its source, such as one of its keyword arguments.
    """

    instead = "tt.unconvert(model) makes layers of torch.nn of it, which it takes for any length"

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse `torch.jit.script`, which asks every module for a stand-in before it reads it.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"torch.jit.script cannot read the Python of a tt.{type(self).__name__}; "
            f"{self.instead}. torch.jit.trace(model, x) records the steps of one length."
        )

    def _slow_forward(self, *args: Any, **named: Any) -> Any:
        """Run ``forward`` under a tracer; so `nn.Module` calls it there."""
        refuse_the_older_exporter()  # before it passes lengths= and the like by position
        return super()._slow_forward(*args, **named)
