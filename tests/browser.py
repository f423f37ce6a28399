"""A real browser without a window, spoken to over its own debugging pipe; nothing has to be installed but itself."""

import json
import os
import select
import shutil
import subprocess
import time

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--window-size=1200,900", "--remote-debugging-pipe",
]  # fmt: skip
PATIENCE = 90  # seconds for one answer, on a busy machine


class Page:
    """One page in a browser of its own; use it in a ``with`` statement."""

    def __init__(self, path, profile):
        self.path, self.profile, self.number, self.held = path, profile, 0, b""

    def __enter__(self):
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        # The browser reads from descriptor 3 and writes to 4.
        start = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", start, BROWSER, *FLAGS, f"--user-data-dir={self.profile}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), **quiet)
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.navigate", url=self.path.as_uri())
        deadline = time.monotonic() + PATIENCE
        while not self.run("location.protocol === 'file:' && document.readyState === 'complete'"):
            assert time.monotonic() < deadline, f"{self.path} is not loaded"
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)

    def call(self, method, **parameters):
        """Sends a command and waits for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while (answer := self.receive(method, deadline)).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self, method, deadline):
        """The next message of the browser."""
        while b"\0" not in self.held:
            assert select.select([self.into], [], [], max(deadline - time.monotonic(), 0))[0], f"no answer: {method}"
            part = os.read(self.into, 1 << 16)
            assert part, f"the browser has gone: {method}"
            self.held += part
        text, _, self.held = self.held.partition(b"\0")
        return json.loads(text)

    def run(self, script):
        """What an expression gives, waited for if it is a promise."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def click(self, selector, number=0):
        """A click with the mouse in the middle of an element; whatever lies on top there gets it."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{number}];"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
