"""Records -> rows as COPY takes them, by two paths that give the same rows."""
