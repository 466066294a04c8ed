"""Many machines at a glance: their /status, read side by side, and what it comes to.

    inventory.py  which machines there are, from a file
    poll.py       ask them all: so many at once, each within its time, and an answer from none is an answer
    verdict.py    who has the wanted commit, who lags, who is degraded, and why (pure)

Only reads: a fleet is changed by its Git repository, not from here.
"""
