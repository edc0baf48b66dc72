"""What an argument names, and its bytes: opened, decompressed, as UTF-8."""
