"""A headless Chromium that is told what to do over its debugging pipe: sizes, colour scheme, keys, screenshots."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """`with Browser(folder) as browser:` has one page open until the block ends."""

    def __init__(self, folder: Path) -> None:
        binary = next(filter(None, map(shutil.which, NAMES)), None)
        assert binary, "this test needs a browser: apt-get install chromium"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        self.command = [binary, *options, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self.number, self.session = 0, ""

    def __enter__(self) -> Browser:
        its_in, ours_out = os.pipe()
        ours_in, its_out = os.pipe()
        plumbing = ["bash", "-c", f'exec 3<&{its_in} 4>&{its_out}; exec "$@"', "browser", *self.command]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(plumbing, pass_fds=(its_in, its_out), **quiet)  # type: ignore[call-overload]
        os.close(its_in), os.close(its_out)
        self.to, self.back = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb")
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self.call("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.to.close(), self.back.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command of the DevTools protocol."""
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        self.to.write(
            json.dumps({"id": self.number, "method": method, "params": parameters, **session}).encode() + b"\0"
        )
        while (message := self._next()).get("id") != self.number:
            pass
        assert "error" not in message, message
        return dict(message["result"])

    def _next(self) -> dict[str, Any]:
        parts = bytearray()
        while (byte := self.back.read(1)) not in (b"\0", b""):
            parts += byte
        assert parts, "the browser ended"
        return dict(json.loads(parts))

    def show(self, file: Path, width: int, height: int = 800, dark: bool = False) -> None:
        """Open a file in a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key as a user does."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, file: Path, whole: bool = False) -> Path:
        """Write what the window shows, or the whole page, as a PNG; return the file."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file
