"""A table of numbers as a small picture: an indexed PNG, one pixel a cell."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

__all__ = ["mixed", "png_uri"]


def mixed(colours: tuple[str, ...], count: int) -> list[str]:
    """Return so many colours along a scale, each mixed of the two of it that lie around.

    Args:
        colours: of the scale, as "#rrggbb", evenly spaced; at least one.
        count: how many.

    Example:
        >>> mixed(("#000000", "#ffffff"), 3)
        ['#000000', '#808080', '#ffffff']
    """
    parts = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours])
    at, known = np.linspace(0, 1, count), np.linspace(0, 1, len(colours))
    rows = np.stack([np.interp(at, known, part) for part in parts.T], 1)
    return ["#" + "".join(f"{round(value):02x}" for value in row) for row in rows.tolist()]


def png_uri(index: np.ndarray, colours: list[str]) -> str:
    """Return a picture as a data URI.

    Args:
        index: (rows, columns), the first row on top: which colour; −1 is transparent.
        colours: as "#rrggbb", at most 255.

    Example:
        >>> png_uri(np.zeros((1, 1), int), ["#ff0000"])[:30]
        'data:image/png;base64,iVBORw0K'
    """
    rows, columns = index.shape
    pixels = np.zeros((rows, columns + 1), np.uint8)  # each row begins with its filter, 0: none
    pixels[:, 1:] = index + 1
    palette = b"\0\0\0" + b"".join(bytes.fromhex(colour[1:7]) for colour in colours)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"tRNS", b"\0"),  # of the first colour; the others are opaque
        (b"IDAT", zlib.compress(pixels.tobytes(), 9)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in parts)
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
