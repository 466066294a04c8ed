"""Pages of docs/reference that are made from the code, so that they cannot go stale.

`python -m appliance.reference` writes them:

    error-codes.md   codes.py    every code of `appliance.errors`, with when it comes and what to do
    events.md        events.py   every type of `reconciler.events`
    verbs.md         verbs.py    every verb of `lmx`, from the same tree that its help comes from

The keys of lmx.yaml and the metrics have their own: `python -m reconciler.schema` and
`python -m appliance.metric_table`. A test compares each page with what would be written.
"""
