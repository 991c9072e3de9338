"""Training runs: the loop over stages, checkpoints and resume, versions and how they are loaded, search."""
