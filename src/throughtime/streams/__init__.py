"""Sequences in segments: cut, gone through with the state carried on, taken up again."""

from .cutting import Segments, segments
from .streaming import Stream, stream

__all__ = ["Segments", "Stream", "segments", "stream"]
