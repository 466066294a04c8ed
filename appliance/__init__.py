"""The data plane: the HTTP server, the engines, and the process around them."""

__version__ = "0.1.0"
