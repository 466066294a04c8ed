"""Encoders in MLX: a text or a pair of texts goes through the model once, and nothing is decoded.

`load` finds out what a folder holds (architecture, tokenizer, pooling), `net.py` files compute the hidden
states, `pooling` and `heads` make vectors and scores of them, `work` cuts questions into slices that share
the device, and `loop` is what an engine process runs instead of the decode scheduler.

Written from the papers and the models' own configs. Weights come from safetensors files only, tokenizers
from tokenizer.json only: nothing that could carry code is opened.
"""
