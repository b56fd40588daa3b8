"""Prepared values: what depends on the sources alone, found once and looked up by every candidate."""
