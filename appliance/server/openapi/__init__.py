"""GET /openapi.json and /docs: what this server takes and gives, made from the structures that check it."""
