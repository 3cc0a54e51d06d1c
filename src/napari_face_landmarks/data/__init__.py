"""Data types of results: per-face arrays, frames, tracks, statistics, and their edits."""
