"""The `lmx` command: one module per group of verbs.

Modules here import only the standard library and typer at the top; what a verb needs is imported
when it runs. So `lmx --help` is instant, and `lmx up` reaches its own imports at once.
"""
