"""The buffer of `--buffer redis://...` and `embedded`: streams of a server that has on its disk what it answers."""
