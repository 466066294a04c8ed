"""GET /v1/ws: many streamed chats on one WebSocket."""
