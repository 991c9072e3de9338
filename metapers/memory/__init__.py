"""What keeps earlier stages alive as data."""
