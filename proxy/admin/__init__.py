"""The operator's door: HTTP for health and metrics."""
