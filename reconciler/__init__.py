"""The control plane: what should be, what is, and the steps between the two.

Nothing here imports `appliance`, `sanic` or `mlx`; everything below `plan.py` is pure.
"""
