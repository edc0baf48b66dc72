"""The failed store: the original records that were refused, in a folder or in an object store."""
