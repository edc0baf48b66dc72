"""Recognition: to which run a source belongs, by the marks of its records."""
