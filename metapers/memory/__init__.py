"""What keeps earlier stages alive as data."""

from metapers.memory.reservoir import reservoir as reservoir
