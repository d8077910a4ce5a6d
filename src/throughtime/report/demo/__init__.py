"""The demo's page: the source's claim, what was measured, and what follows from it."""

from .page import write_demo

__all__ = ["write_demo"]
