"""How the outer loop moves the shared parameters and every user's start."""
