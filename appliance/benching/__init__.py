"""Measuring a running appliance from outside, so that one changed setting can be judged: `lmx bench`.

It speaks the public API and nothing else, as any client does::

    cells/*.yaml ─ cells.read ─▶ Cell ──┐
                                        ├─▶ run.Bench ─ asking ─▶ /v1/chat/completions
    speed.Sizes ────────────────────────┘        │
                                                 ├─▶ speed.one_round ─▶ figures, one value a round
                                                 └─▶ judging.judge ───▶ passed or not, and why
    document.made ◀── both          compare.compared ◀── two documents

A run is a number of rounds. Each round measures every speed once; the first also asks every cell, and later
ones do as long as `quality_rounds` says. No new round begins when the time is up, and what came of the
rounds there were is shown with their number. Every request takes the appliance's own sampling (only a seed
and a longest answer are sent), because sampling may be the setting that is judged.

What a saved run holds is in `document.py`, what a difference must show to count in `compare.py`, and how code
that a model wrote is judged in `code.py`.
"""
