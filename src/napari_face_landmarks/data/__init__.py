"""What a result is: the per-face arrays, frames, tracks, statistics and edits of them."""
