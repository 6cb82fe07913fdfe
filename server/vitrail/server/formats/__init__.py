"""One guard a format: what the container says before anything is decoded, and the bytes that the pixels need.

A thread cannot be stopped, so what bounds the work comes before the work. A guard looks at the container alone, hands
Pillow only what the pixels need (no text, thumbnails or further frames, where Python-level loops over millions of
tiny parts would otherwise hold the GIL) and refuses what would take too long or too much memory.
"""
