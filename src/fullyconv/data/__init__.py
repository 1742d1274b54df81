"""Data sets: files on disk as samples and batches."""
