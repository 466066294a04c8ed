"""`lmx doctor`: what on this machine would keep LMX from serving well, each finding with its remedy.

    machine.py    Python, processor, MLX, memory, files
    places.py     the file, its port, disks, the hub, the clock
    mac.py        sleep, restart, FileVault, launchd: from the outputs of the system's own commands

A check looks and tells; it changes nothing. One that cannot look says so, and never that all is well.
"""
