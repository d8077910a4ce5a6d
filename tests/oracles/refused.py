"""What a refusal must be: one error of the package's own, in words."""

from __future__ import annotations

import re

import pytest

from throughtime import errors


def refused(call, kind: type[Exception], builtin: type[Exception], got: str) -> None:
    """Require one error: of exactly this kind, that built-in too, with what was got in words."""
    with pytest.raises(errors.ThroughTimeError) as caught:
        call()
    assert type(caught.value) is kind
    assert isinstance(caught.value, builtin)
    message = str(caught.value)
    assert re.search(got, message), message
    assert caught.value.__context__ is None or caught.value.__cause__ is not None
