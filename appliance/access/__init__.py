"""Who may call, and how much: API keys, what each may use, and how wrong ones are slowed down.

Nothing here knows HTTP. `appliance.server.guards` asks for each request; the reconciler's loop asks for
the state of the keys in each pass.
"""
