"""The flow of a whole model: its layers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import LayerNotFoundError, PackageError
from . import export
from .facts import Facts
from .layer_flow import LayerFlow
from .shown import Judged, judged, text_of

__all__ = ["Flow"]


class Flow(Mapping[str, LayerFlow]):
    """The gradient's way back through every recurrent layer of a model, by the layer's name.

    Names are the module's path and PyTorch's suffix: ``"lstm.l0"``, ``"lstm.l0_reverse"``;
    ``"l0"`` when the model itself is the layer. A layer's second run is ``"lstm.l0@2"``.

    Attributes:
        split: "loss" where the losses were 1-D, "step" where a scalar was split by the step at
            which its gradient enters the layer.
        facts: what the trace knows of the model beyond its layers; None of a flow built by hand.
        skipped: by path, the modules that look recurrent and were not followed, and why.
        html: how a notebook shows a flow; the report sets it.
        judge: what finds what is wrong with a flow that is printed; diagnosis sets it.
    """

    facts: Facts | None = None
    html: Callable[[Flow], str] | None = None
    judge: Callable[[Flow], Sequence[Judged]] | None = None

    def __init__(
        self, layers: dict[str, LayerFlow], split: str, skipped: Mapping[str, str] | None = None
    ) -> None:
        """Take the layers in the order in which they ran."""
        self._layers, self.split, self.skipped = layers, split, dict(skipped or {})

    def __getitem__(self, name: str) -> LayerFlow:
        """Return the flow of one layer.

        Raises:
            LayerNotFoundError: there is no layer of that name.
        """
        if name not in self._layers:
            raise LayerNotFoundError(
                f"there is no layer {name!r} in this flow; it has {', '.join(self._layers)}."
            )
        return self._layers[name]

    def __contains__(self, name: object) -> bool:
        """Check whether there is such a layer."""
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Count the layers."""
        return len(self._layers)

    def to_dict(self, *, norms: bool = False) -> dict[str, Any]:
        """Return the numbers of every layer as plain data with a version, ready for JSON.

        docs/export.md describes the format, and `throughtime.flow.from_dict` reads it.

        Args:
            norms: whether all V·(T+1)·B norms of each layer are taken along.

        Cost:
            one sweep per layer, for the summed loss.

        Example:
            >>> model = torch.nn.RNN(3, 5)
            >>> with tt.trace(model) as trace:
            ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
            >>> data = trace.flow(losses).to_dict()
            >>> data["version"], data["layers"]["l0"]["lag_profile"][0]
            (1, 1.0)
        """
        return export.to_dict(self, self.split, norms=norms)

    def __repr__(self) -> str:
        """Return a short table, and what is wrong first, within 80 columns."""
        found = judged(self, type(self).judge)
        return text_of(self, self.skipped, found)

    def _repr_html_(self) -> str | None:
        """Show table and figures in a notebook; the text alone where Jinja is not installed."""
        html = type(self).html
        try:
            return None if html is None else html(self)
        except PackageError:
            return None
