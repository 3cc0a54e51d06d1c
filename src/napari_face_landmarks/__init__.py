"""68 face landmarks on video: PFLD with CLNF refinement, for napari and for scripts."""
