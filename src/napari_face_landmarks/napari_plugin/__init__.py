"""The napari plugin: docks, readers, writers, sample data and landmarks layers.

`points_layer` and `run_controller` use napari without Qt or a display; panels and docks need both.
"""
