"""A result of an MCP tool as the one text that a model reads."""

from __future__ import annotations

import json

import mcp_types as types


def as_text(result: types.CallToolResult) -> str:
    """Pieces one under the other. What is no text is named, not shown: no model here could see it."""
    pieces = [_piece(block) for block in result.content]
    if not pieces and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(pieces)


def _piece(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent(text=text):
            return text
        case types.EmbeddedResource(resource=types.TextResourceContents(text=text)):
            return text
        case types.EmbeddedResource(resource=resource):
            kind = resource.mime_type or "of an unknown kind"
            return f"[{resource.uri}, {kind}, is no text and was left out]"
        case types.ResourceLink(uri=uri, name=name):
            return f"[{name}: {uri}]"
        case types.ImageContent(mime_type=kind) | types.AudioContent(mime_type=kind):
            return f"[{kind}, {len(block.data) * 3 // 4} bytes, is no text and was left out]"
