"""Constants of manual correction, tuned on held-out faces with simulated errors."""

from __future__ import annotations

HELD_WEIGHT = 30.0
"""Weight of a manual landmark in the fit of the shape model, relative to 1 of a certain one."""
REST_WEIGHT = 0.001
"""Weight of an unknown landmark when the model is fitted to the manual ones."""
FAR_OFF = 0.12
"""A start whose landmarks are farther than this from the manual ones (inter-ocular distances) is not used."""
FAR_PLACED = 0.4
"""A manual landmark farther than this from its position according to the others is doubtful."""
ENOUGH_TO_DOUBT = 4
"""With fewer manual landmarks it cannot be determined which of them is wrong."""
MOST_DOUBTED = 8
"""Manual landmarks, the farthest ones, that are left out one at a time to test them."""
SPREAD = 0.2
"""Distance over which landmarks follow a neighbour's manual displacement, inter-ocular distances."""
ITERATIONS = 5
"""Minimum number of CLNF iterations at each scale."""
HAND_SIGMA = 0.005
"""Precision of a manual landmark, inter-ocular distances."""
BLEND = 6
"""Frames over which a propagated stretch is blended into the old track."""
LEAST_SEEN = 0.5
"""Smallest factor by which a face rotated in depth shortens offsets."""
HAND_NOISE = 0.01
"""Share of the variance of a manual landmark's offset that its neighbours do not have."""
KEPT, DROPPED = 1.2, 2.4
"""Loss of evidence up to which a correction is kept unchanged, and from which it is dropped.

The natural logarithm of the response at the corrected landmarks over that at the automatic ones, compared
with the corrected frame.
"""
ADAPTATION = 0.4
"""Rate at which the share of a correction follows the evidence of a frame: a single frame drops none."""
