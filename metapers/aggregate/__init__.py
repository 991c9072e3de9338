"""How the losses of many users become one gradient."""
