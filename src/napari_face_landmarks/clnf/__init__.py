"""CLNF: refinement of landmarks by patch experts under a 3D point distribution model."""
