"""Models as files: what lies on disk, and how it gets there.

`find` and `inventory` look, `Downloads` fetches. Looking imports neither the hub's client nor an HTTP
library, so the parent stays small; fetching happens in a child process (`python -m appliance.hub.fetch`).
The cache is the hub's own (`HF_HOME`, `HF_HUB_CACHE`), in its own layout: what LMX downloads other
programs find, and the other way round.
"""

from __future__ import annotations

from appliance.hub.cache import Wanted, cache_folder
from appliance.hub.downloads import Download, DownloadError, Downloads
from appliance.hub.files import find, locate, wanted
from appliance.hub.inventory import CachedModel, inventory

__all__ = [
    "CachedModel",
    "Download",
    "DownloadError",
    "Downloads",
    "Wanted",
    "cache_folder",
    "find",
    "inventory",
    "locate",
    "wanted",
]
