"""The prompt cache's name and its files, found on a thread of their own while the weights load."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from appliance.prompt_cache import keys
from appliance.prompt_cache.index import Index
from appliance.prompt_cache.sessions import Named
from appliance.prompt_cache.store import Store
from appliance.wire import Load

log = logging.getLogger(__name__)

UNLIMITED = 2**62  # bytes: what is there is looked at before the quota is known


class Opening:
    """`result` waits for it. Files that cannot be read cost the disk tier, and say so; never the model."""

    def __init__(self, order: Load) -> None:
        self._order = order
        self._index = Index("", stateful=False)
        self._store: Store | None = None
        self._named: Named | None = None
        self._why: str | None = None
        self._thread = threading.Thread(target=self._open, name="prompt-cache-scan", daemon=True)
        self._thread.start()

    def result(self) -> tuple[Index, Store | None, Named | None, str | None]:
        """The index of what is on disk, the disk tier, its sessions, and why there is none where there is."""
        self._thread.join()
        return self._index, self._store, self._named, self._why

    def _open(self) -> None:
        order = self._order
        if order.cache_path is None:
            return
        adapter = None if order.adapter is None else Path(order.adapter)
        try:
            namespace = keys.namespace(Path(order.path), adapter, order.kv_bits)
        except (OSError, ValueError) as error:  # the load itself says what is wrong with the model's files
            self._why = f"the model's files have no name to keep its prompts under: {error}"
            log.error("the prompt cache on disk is off: %s", self._why)
            return
        store = Store(Path(order.cache_path), namespace, {"model": order.model, "path": order.path})
        store.configure(UNLIMITED)
        index = Index(namespace, stateful=False)
        useless = index.fill(store.scan())
        store.drop(useless)
        if len(index):
            log.info("%d blocks of cached prompts, %d bytes on disk", len(index), index.disk)
        named = Named(store)
        named.load()
        self._index, self._store, self._named = index, store, named
