"""LMX as a service of the system: what launchd and systemd are told, and what they tell."""
