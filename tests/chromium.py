"""A headless Chromium to open pages in: one process, spoken to over two pipes, so that tests click and type as a reader does."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PATIENCE_S = 60.0  # on a machine that is busy with everything else
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Chromium:
    """One page. `problems` collects what the console and the page's policy complained about, and what it tried to load."""

    def __init__(self) -> None:
        assert PROGRAM is not None
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        (to_read, self.write_to), (self.read_from, to_write) = os.pipe(), os.pipe()
        spare = 200, 201  # a pipe's own end may be 3 or 4
        self.pid = os.posix_spawn(  # the browser reads commands from 3 and answers on 4
            PROGRAM,
            [PROGRAM, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, to_read, spare[0]),
                (os.POSIX_SPAWN_DUP2, to_write, spare[1]),
                (os.POSIX_SPAWN_DUP2, spare[0], 3),
                (os.POSIX_SPAWN_DUP2, spare[1], 4),
                (os.POSIX_SPAWN_CLOSE, spare[0]),
                (os.POSIX_SPAWN_CLOSE, spare[1]),
                *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)),
            ],
        )
        os.close(to_read)
        os.close(to_write)
        self.said, self.sent, self.problems, self.loads = b"", 0, [], []
        self.session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and wait for its answer."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until its script has run."""
        self.problems.clear()
        self.loads.clear()
        self("Page.navigate", url="about:blank")
        self._until("Page.loadEventFired")
        self.loads.clear()
        self("Page.navigate", url=path.resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        self._until("Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """The value of an expression of the page's own language, as JSON has it."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def click(self, selector: str, nth: int = 0) -> None:
        """Click in the middle of the nth element that matches, where it is on the screen."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})][{nth}]"
        box = self.run(
            f"(() => {{ const e = {found}; e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def look(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.session = None
        self("Browser.close")
        os.waitpid(self.pid, 0)
        os.close(self.write_to)
        os.close(self.read_from)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _until(self, method: str) -> None:
        while self._next().get("method") != method:
            pass

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.said:
            assert select.select([self.read_from], [], [], PATIENCE_S)[0], "the browser does not answer"
            more = os.read(self.read_from, 1 << 16)
            assert more, "the browser has gone"
            self.said += more
        raw, self.said = self.said.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(told["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(str(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("data:", "about:")):
            self.loads.append(told["request"]["url"])
