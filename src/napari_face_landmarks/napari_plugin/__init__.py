"""All that knows napari: docks, readers, writers, the sample, and layers of landmarks.

`points_layer` and `run_controller` need napari's models only and run without Qt or a display; panels and
docks need both.
"""
