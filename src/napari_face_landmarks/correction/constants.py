"""The constants of correction by hand, tuned on held-out faces that were spoiled."""

from __future__ import annotations

HELD_WEIGHT = 30.0
"""Weight of a landmark placed by hand in the fit of the shape model, against 1 of a sure one."""
REST_WEIGHT = 0.001
"""Weight of a landmark that may be anywhere, where the model is fitted to those placed by hand."""
FAR_OFF = 0.12
"""A start whose landmarks are farther from those placed by hand (of the inter-ocular distance) is off."""
FAR_PLACED = 0.4
"""A landmark placed by hand is doubtful so far (in inter-ocular distances) from where the others have it."""
ENOUGH_TO_DOUBT = 4
"""With fewer manual landmarks it is not known which of them is off."""
MOST_DOUBTED = 8
"""Placed landmarks, those farthest off, that are left out one at a time to look."""
SPREAD = 0.2
"""Reach over which landmarks follow a neighbour's last step to its place, inter-ocular distances."""
ITERATIONS = 5
"""CLNF iterations at each scale, at least: one frame may take its time."""
HAND_SIGMA = 0.005
"""How exactly a hand places a landmark, inter-ocular distances."""
BLEND = 6
"""Frames over which a new stretch of a track goes over into the old one."""
LEAST_SEEN = 0.5
"""A face that is turned away shortens offsets to this share at the most."""
HAND_NOISE = 0.01
"""Variance of a manual landmark's offset that is not its neighbours', of the whole variance."""
KEPT, GONE = 1.2, 2.4
"""How much worse a correction looks than on its own frame where it is still kept whole, and no longer.

The natural logarithm of the response at the corrected landmarks over that at the automatic ones.
"""
SETTLE = 0.4
"""Share by which a correction nears what a frame says of it: one frame alone ends none."""
