"""The parent side of engines: spawn, wire, measure, kill and route. Imports no MLX."""
