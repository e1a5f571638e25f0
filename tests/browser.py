"""A headless Chromium that tests drive, through its DevTools protocol over a pipe: no package beside it is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 30  # that any answer may take
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}


def chromium_here() -> str:
    """Its command; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A Chromium with one tab; its profile in a folder of the test."""
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
             f"--user-data-dir={profile}"]  # fmt: skip
    script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'  # the protocol's descriptors
    command = ["bash", "-c", script, chromium_here(), *flags, "about:blank"]
    with open(profile.parent / "chromium.log", "wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(to_browser, from_browser), stdout=log, stderr=log, start_new_session=True
        )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Browser:
    """One tab.

    Attributes:
        problems: errors of scripts, of the console and of the page's policy since `open`.
        requests: addresses that were asked for since `open`, `data:` left out.
    """

    def __init__(self, out: int, into: int):
        self._out, self._in, self._rest, self._count, self._session = out, into, b"", 0, None
        self.problems, self.requests, self.loaded = [], [], False
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """One command of the protocol and its answer; events on the way are noted."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], SECONDS)[0], "Chromium does not answer"
            block = os.read(self._in, 1 << 20)
            assert block, "Chromium has ended; see chromium.log"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.problems.append(told["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(told["args"])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"])
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith("data:"):
            self.requests.append(told["request"]["url"])

    def open(self, page: Path | str, width: int = 1200, height: int = 900, dark: bool = False, touch: bool = False):
        """Show a file or an address in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        wanted = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        self.problems, self.requests, self.loaded = [], [], False
        self.call("Page.navigate", url=page.as_uri() if isinstance(page, Path) else page)
        self.wait(lambda: self.loaded, "the page loads")

    def wait(self, is_so, what: str) -> None:
        """Wait until something is so."""
        end = time.monotonic() + SECONDS
        while not is_so():
            assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
            self.js("new Promise(requestAnimationFrame)")

    def js(self, expression: str):
        """The value of an expression in the page; a promise is waited for."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", **given)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def centre(self, selector: str, place: int = 0) -> tuple[float, float]:
        """Where an element is, after scrolling to it."""
        found = f"document.querySelectorAll({json.dumps(selector)})[{place}]"
        self.js(f"{found}.scrollIntoView({{block: 'nearest'}})")
        self.js(DRAWN)
        box = f"(r => [r.x, r.y, r.width, r.height])({found}.getBoundingClientRect())"
        x, y, width, height = self.js(box)
        return x + width / 2, y + height / 2

    def hover(self, selector: str, place: int = 0) -> None:
        x, y = self.centre(selector, place)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str, place: int = 0) -> None:
        self.hover(selector, place)
        x, y = self.centre(selector, place)
        for what in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1)

    def tap(self, selector: str, place: int = 0) -> None:
        """As a finger does."""
        x, y = self.centre(selector, place)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def leave(self) -> None:
        """Take the pointer off everything."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)

    def press(self, key: str) -> None:
        given = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        given |= {"text": "\r"} if key == "Enter" else {}
        for what in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=what, **given)

    def type(self, text: str) -> None:
        """Text for the element with the focus."""
        self.call("Input.insertText", text=text)

    def shot(self, path: Path, selector: str | None = None) -> np.ndarray:
        """A picture of the whole page, or of an element: written to `path`, and as uint8 (height, width, 3)."""
        clip = f"document.querySelector({json.dumps(selector or 'html')}).getBoundingClientRect()"
        box = self.js(f"(() => {{ const r = {clip}; return [r.x + scrollX, r.y + scrollY, r.width, r.height] }})()")
        given = {"clip": dict(zip(("x", "y", "width", "height"), box), scale=1), "captureBeyondViewport": True}
        self.js(DRAWN)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **given)["data"]))
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))


def screenshots(tmp_path: Path) -> Path:
    """Where a test keeps its pictures: BSSAN_SCREENSHOTS, or its own folder."""
    folder = Path(os.environ.get("BSSAN_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
