"""From the limits the control plane decided on to the message that an engine takes them from."""

from __future__ import annotations

from appliance import wire
from reconciler.observed import Limits


def configuration(limits: Limits) -> wire.Configure:
    """Raises TypeError for a sampling field that the wire does not know."""
    return wire.Configure(
        context=limits.context,
        context_declared=limits.context_declared,
        concurrency=limits.concurrency,
        prefill_chunk=limits.prefill_chunk,
        sampling=wire.Sampling(**limits.sampling),
        force=limits.force,
        enable_thinking=limits.enable_thinking,
        memory=limits.memory_bytes,
        workspace=limits.workspace_bytes,
        buffer_cache=limits.buffer_cache_bytes,
        wired=limits.wired_bytes,
        cache_memory=limits.cache_memory_bytes,
        cache_disk=limits.cache_disk_bytes,
        prefill_auto=limits.prefill_auto,
        thinking_budget=limits.thinking_budget,
        tool_parser=limits.tool_parser,
    )
