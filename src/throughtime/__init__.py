"""The gradient's way back through time in a recurrent network."""

from . import cells, errors

__all__ = ["cells", "errors"]
