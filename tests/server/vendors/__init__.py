"""What OpenAI's and Anthropic's own packages make of our answers."""
