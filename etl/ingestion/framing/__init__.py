"""Bytes -> pieces of whole records, with exact offsets and record numbers."""
