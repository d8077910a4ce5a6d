"""A headless Chromium that is driven over a pipe: keys pressed, numbers read, requests seen."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report.browser import FLAGS, chromium


class Chrome:
    """One page in a browser; what it asked of the network and said on the console is kept.

    Attributes:
        requests: the addresses that were asked for, but for the page itself and its own blobs.
        console: errors and warnings, uncaught exceptions among them.
    """

    def __init__(self, to: int, of: int) -> None:
        """Take the two ends of the pipe."""
        self._to, self._of, self._number, self._unread = to, of, 0, b""
        self.requests: list[str] = []
        self.console: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = session["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    session: str | None = None

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and give its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            got = self._read()
            if got.get("id") == self._number:
                assert "error" not in got, got
                return got["result"]
            self._note(got)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._of, 1 << 20)
            assert part, "the browser ended"
            self._unread += part
        first, self._unread = self._unread.split(b"\0", 1)
        return json.loads(first)

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith(("blob:", "data:", "file:", "about:")):
                self.requests.append(url)
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(told["exceptionDetails"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.console.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.console.append(json.dumps(told["args"])[:600])

    def js(self, expression: str) -> Any:
        """Give the value of an expression, a promise's once it is kept."""
        got = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        self.js(
            "new Promise((yes, no) => { const end = Date.now() + "
            f"{1000 * seconds}; (function look() {{ if ({condition}) yes(); else if (Date.now() > "
            f"end) no(new Error({json.dumps(condition)})); else setTimeout(look, 15); }})(); }})"
        )

    def open(self, address: str, width: int = 1440, height: int = 1000, dark: bool = False) -> None:
        """Open a page in a window of this size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def press(self, key: str, times: int = 1) -> None:
        """Press a key so many times, on what has the focus."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9,
                 " ": 32}  # fmt: skip
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                          windowsVirtualKeyCode=codes[key])  # fmt: skip

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        got = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(got["data"]))


@contextlib.contextmanager
def chrome() -> Iterator[Chrome]:
    """Lend a browser; skip the test, saying so, where there is none."""
    path = chromium()
    hears, to = os.pipe()
    of, says = os.pipe()
    # The browser reads from 3 and writes to 4; a shell puts the ends there.
    line = f'exec "$0" "$@" 3<&{hears} 4>&{says}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", line, path, *FLAGS, "--remote-debugging-pipe",
             f"--user-data-dir={profile}"],
            pass_fds=(hears, says), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(hears)
        os.close(says)
        try:
            yield Chrome(to, of)
        finally:
            process.kill()
            process.wait()
            os.close(to)
            os.close(of)
