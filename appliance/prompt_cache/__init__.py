"""The prompt cache without MLX: names, the index, files and sessions. docs/prompt-cache.md has the whole.

Nothing here imports MLX, so that the parent can list sessions of models that are not loaded.
"""
