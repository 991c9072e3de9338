"""How one user adapts."""
