"""Packages that only a part of throughtime needs: there, or a sentence on how to get them."""

from __future__ import annotations

from importlib import import_module

from .errors import PackageError

__all__ = ["need_plotly", "need_templates"]


def need_plotly() -> None:
    """Check whether figures and pages can be made, before any work is done for them.

    Raises:
        PackageError: Plotly or Jinja is not installed.
    """
    _need("plotly", "Plotly")
    need_templates()


def need_templates() -> None:
    """Check whether a page of still figures can be made.

    Raises:
        PackageError: Jinja is not installed.
    """
    _need("jinja2", "Jinja")


def _need(module: str, name: str) -> None:
    try:
        import_module(module)
    except ImportError as error:
        raise PackageError(
            f"figures and reports need {name}, which cannot be imported ({error}); "
            "pip install 'throughtime[report]'. Everything else works without."
        ) from error
