"""The failed store: the original records that were refused, on disk."""
