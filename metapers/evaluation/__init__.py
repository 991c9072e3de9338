"""The evaluation of a run: every version and baseline on held-out users, summarised."""
