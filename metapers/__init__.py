"""Continual meta-learned personalization: one shared backbone, adapted to each user in a few compiled steps."""
