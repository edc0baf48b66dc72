"""The line itself: one source loaded into its datasets, batch by batch."""
