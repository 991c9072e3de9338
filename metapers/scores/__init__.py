"""Losses, metrics, intervals and the continual matrix."""
