"""The parent that keeps the public sockets open while appliances come and go. Standard library only.

It knows nothing of models, HTTP or YAML: it starts `lmx up` as a child, keeps copies of the sockets that
the child listens on, and hands them to the next one. docs/upgrading.md has the stages; here is what is said.

Each child has a socket pair (its number is in `LMX_HOLDER`) with a JSON object per line, see `lines`:

    to the child    start {role: first|standby, sockets, beside, predecessor, alone, last}, once, at once
                    beside {bytes}     what another appliance uses now
                    pause, resume, go, drain {idle_s}       drain without idle_s: silent connections may stay
                    told {last}        how an upgrade or switch has ended
    from the child  hello {version, drain_s}
                    listening {sockets}    all open addresses with their sockets: replaces what was kept
                    memory {bytes}
                    state {ready, reason, room, hopeless}   room: it does not fit beside the other one
                    paused, serving, failed {reason}

`sockets` is a list of {host, port, count}, and as many descriptors come along.
"""
