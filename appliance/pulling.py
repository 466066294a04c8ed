"""Downloads that people ask for: /admin/models/pull.

Only what the spec names is fetched, by the download that the loop would begin or has begun. Whoever asks
watches it and may leave; what the loop wants goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from appliance.breakers import Open
from appliance.errors import ApiError
from appliance.fetching import Fetching
from appliance.hub import files
from appliance.hub.cache import Wanted
from appliance.hub.downloads import Download, DownloadError
from reconciler.digests import digest
from reconciler.names import is_commit, is_hub
from reconciler.spec import Model

RETRY_S = 30.0  # after what may go better next time

# The downloader's word -> the code a client sees. Its own word is in `reason`.
CODES = {
    "not_found": "not_found",
    "revision_not_found": "not_found",
    "gated": "gated",
    "unauthorized": "gated",  # 401 would tell the client that its own key is wrong
    "unsupported": "not_supported",
    "unsafe": "not_supported",
    "offline": "offline",
    "insufficient_storage": "insufficient_storage",
    "checksum_mismatch": "checksum_mismatch",
    "network": "download_failed",
    "interrupted": "download_failed",
    "storage": "download_failed",
}
_RETRIABLE = frozenset({"checksum_mismatch", "download_failed"})


class Pulls:
    """base: the folder that relative paths of the spec start from."""

    def __init__(self, fetching: Fetching, base: Path) -> None:
        self._fetching, self._base = fetching, base

    async def pull(self, name: str, model: Model) -> AsyncIterator[dict[str, Any]]:
        """Each change of the download of `model`, the last with `state` done. In bytes and seconds.

        Raises ApiError. To leave early, close the iterator.
        """
        found = files.find(
            model.source, model.revision, model.adapter, self._base, code=model.trust_remote_code
        )
        if found.state == "broken":
            raise ApiError("not_supported", found.message or f"{model.source} cannot be loaded")
        wanted = self._wanted(model)
        if not wanted:
            yield shown(name, Download(state="done"))
            return
        key = digest(model)
        try:
            with self._fetching.hold(key, wanted):
                before = None
                while True:
                    news = self._fetching.news  # first: while a client is told, the download goes on
                    view = self._fetching.pulled(key)
                    if view.state != "downloading":
                        break
                    if view != before:
                        before = view
                        yield shown(name, view)
                    await news.wait()
                if view.state != "done":
                    raise refusal(view.error or DownloadError("interrupted", "the download was stopped"))
                yield shown(name, view)
        except Open as error:
            raise ApiError("download_failed", error.message, retry_after=error.retry_in) from error

    def _wanted(self, model: Model) -> list[Wanted]:
        """What is missing, and what is here but may have moved on: a branch is looked up again."""
        code = model.trust_remote_code
        missing = files.wanted(model.source, model.revision, model.adapter, self._base, code=code)
        parts = [Wanted(model.source, model.revision, code)]
        parts += [Wanted(model.adapter)] if model.adapter is not None else []
        return [
            part
            for part in parts
            if is_hub(part.repo) and (part in missing or not is_commit(part.revision or ""))
        ]


def shown(name: str, view: Download) -> dict[str, Any]:
    return {
        "model": name,
        "state": view.state,
        "done": view.done,
        "total": view.total,
        "rate": view.rate,
        "eta": view.eta,
        "file": view.file,
        "message": view.note,
    }


def refusal(error: DownloadError) -> ApiError:
    code = CODES[error.code]
    retry_after = RETRY_S if code in _RETRIABLE else None
    return ApiError(code, error.message, retry_after=retry_after, details={"reason": error.code})
