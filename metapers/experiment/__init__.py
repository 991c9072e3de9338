"""From a config to a run and back: the only readers of a config, the only ones that know every name."""
