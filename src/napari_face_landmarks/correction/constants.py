"""Constants of manual correction, tuned on held-out faces with simulated errors.

Distances are in inter-ocular distances.
"""

from __future__ import annotations

MANUAL_WEIGHT = 30.0
"""Weight of a manual landmark in the fit of the PDM; a confident landmark has weight 1."""
UNKNOWN_WEIGHT = 0.001
"""Weight of the other landmarks when the PDM is fitted to the manual ones."""
AGREEMENT = 0.12
"""Distance up to which landmarks agree with manual ones; also the sigma assumed for PDM fits."""
DOUBTFUL_DISTANCE = 0.4
"""Minimum distance of a doubtful manual landmark from its position predicted from the others."""
MIN_TO_DOUBT = 4
"""Minimum number of manual landmarks to determine which of them is wrong."""
MAX_TESTED = 8
"""Maximum number of manual landmarks, the farthest ones, that are left out one at a time to test them."""
NEIGHBOUR_RANGE = 0.2
"""Range (sigma of a Gaussian) over which landmarks follow the displacement of a manual landmark."""
MIN_ITERATIONS = 5
"""Minimum number of CLNF iterations at each scale."""
MANUAL_SIGMA = 0.005
"""Standard deviation of a manual landmark in CLNF."""
BLEND_FRAMES = 6
"""Number of frames over which a propagated stretch is blended into the previous track."""
MIN_FORESHORTENING = 0.5
"""Minimum factor by which rotation in depth shortens offsets."""
OFFSET_NOISE = 0.01
"""Share of the variance of a manual landmark's offset that its neighbours do not follow."""
KEEP_LOSS, DROP_LOSS = 1.2, 2.4
"""Loss of evidence up to which a correction is kept unchanged, and from which it is dropped.

The evidence is the logarithm of the response at the corrected landmarks over that at the automatic ones; the
loss is its decrease since the corrected frame.
"""
ADAPTATION_RATE = 0.4
"""Rate at which the share of a correction follows each frame's evidence; no single frame drops it."""
