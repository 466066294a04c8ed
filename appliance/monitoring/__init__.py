"""What Prometheus and Grafana need to watch a fleet, rendered from templates."""
