"""Write the pages anew, in the checkout that this is run in."""

from __future__ import annotations

from pathlib import Path

from appliance.reference import codes, events, verbs

PAGES = (codes, events, verbs)

if __name__ == "__main__":
    for page in PAGES:
        Path(page.FILE).write_text(page.text(), encoding="utf-8")
