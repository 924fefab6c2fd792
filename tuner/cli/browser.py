"""Opens a page in the browser of a machine with a desktop.

`python -m tuner.cli.browser LINK` waits until the page's server answers.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
import webbrowser

_TIMEOUT_SECONDS = 120.0


def has_desktop() -> bool:
    """Whether the user of this command would see a page that it opens."""
    if os.environ.get("SSH_CONNECTION") and sys.platform != "linux":
        return False
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_when_up(link: str) -> bool:
    """Open the page when its server answers. Returns whether it was opened."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(link.partition("#")[0], timeout=5).close()
        except urllib.error.HTTPError:
            pass  # it answers; the browser asks for a password
        except OSError:
            time.sleep(0.5)
            continue
        return webbrowser.open(link)
    return False


if __name__ == "__main__":
    open_when_up(sys.argv[1])
