"""Training runs: the loop over periods, checkpoints and resume, versions and how they are loaded, search."""
