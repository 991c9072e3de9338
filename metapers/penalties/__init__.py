"""What keeps earlier stages alive in the parameters."""
