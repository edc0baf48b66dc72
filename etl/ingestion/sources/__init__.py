"""The sources that an argument names, and their bytes: opened, decompressed, decoded to UTF-8."""
