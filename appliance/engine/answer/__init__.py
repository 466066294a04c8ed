"""An answer's parts: what was thought, what was said, and which tools were called, while it is written."""
