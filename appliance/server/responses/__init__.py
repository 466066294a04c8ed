"""OpenAI's Responses API: /v1/responses, and the responses kept for `previous_response_id`."""
