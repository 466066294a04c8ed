"""`make pictures`: the sessions and the picture of docs/first-hour.md, taken anew.

The picture is the page of an appliance that serves the lmx.yaml of this checkout and has answered for a
while, in Debian's Chromium (`apt-get install chromium fonts-dejavu-core`), with few colours to stay small.
"""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

from tests.documents import session
from tests.documents.session import PAGE, ROOT, Place, played, served

FOLDER = ROOT / "docs" / "pictures"
WIDTH, HEIGHT = 1200, 1500  # pixels; what is empty below the page is cut off
TRAFFIC_S = 45.0  # so that the charts have something to show
LARGEST = 150_000  # bytes of a picture
QUESTIONS = ("What is LMX?", "Count from one to one hundred.", "What is the capital of France?")


def busy(place: Place, seconds: float) -> None:
    """Questions, one after the other, with a pause now and then."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        body = {
            "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            "max_tokens": 200,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{place.port}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        number += 1
        time.sleep(0.5 * (number % 3))


def screenshot(place: Place, folder: Path) -> Image.Image:
    shot = folder / "page.png"
    subprocess.run(
        [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder / 'chromium'}",
            f"--window-size={WIDTH},{HEIGHT}",
            "--timeout=8000",
            f"--screenshot={shot}",
            f"http://127.0.0.1:{place.port}/",
        ],
        check=True,
        timeout=90,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return Image.open(shot).convert("RGB")


def cropped(picture: Image.Image) -> Image.Image:
    """Without the empty part below the page: rows that are all of the colour of the last one."""
    ground = picture.getpixel((0, picture.height - 1))
    empty = Image.new("RGB", (picture.width, 1), ground).tobytes()
    bottom = picture.height
    while bottom > 1 and picture.crop((0, bottom - 1, picture.width, bottom)).tobytes() == empty:
        bottom -= 1
    return picture.crop((0, 0, picture.width, min(picture.height, bottom + 24)))


def small(picture: Image.Image) -> bytes:
    """As PNG of 64 colours. Raises RuntimeError where that is still too large for a page of text."""
    out = io.BytesIO()
    picture.quantize(64).save(out, "PNG", optimize=True)
    if out.tell() > LARGEST:
        raise RuntimeError(f"{out.tell()} bytes, and {LARGEST} is the most")
    return out.getvalue()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lmx-pictures-") as made:
        folder = Path(made)
        (folder / "machine").mkdir()
        with served(folder / "machine", name=session.SHOWN_HOST) as place:
            busy(place, TRAFFIC_S)
            (FOLDER / "dashboard.png").write_bytes(small(cropped(screenshot(place, folder))))
    with tempfile.TemporaryDirectory(prefix="lmx-session-") as made, served(Path(made)) as place:
        PAGE.write_text(played(PAGE.read_text(encoding="utf-8"), place), encoding="utf-8")


if __name__ == "__main__":
    main()
