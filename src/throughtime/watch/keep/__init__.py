"""What is needed to take the step again that broke a training: kept, written, read, replayed."""

from .breaking import Break
from .bundle import Bundle
from .keeper import Keeper
from .replaying import Cause, Replay
from .stored import read_bundle, write_bundle

__all__ = ["Break", "Bundle", "Cause", "Keeper", "Replay", "read_bundle", "write_bundle"]
