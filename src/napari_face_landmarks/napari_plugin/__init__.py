"""All that knows napari: the dock widget, the reader, the sample, and layers of landmarks.

`layers` and `live` need napari's models only and run without Qt or a display; `widget` needs both.
"""
