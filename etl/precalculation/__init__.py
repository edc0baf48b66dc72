"""Precalculation: bringing the aggregates up to date with the facts."""
