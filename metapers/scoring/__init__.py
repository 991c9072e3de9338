"""Curves over shots and inner steps, baselines over a stream, and the records of both."""
