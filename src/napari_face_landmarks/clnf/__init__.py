"""CLNF: landmarks refined by patch experts under a 3D point distribution model."""
