"""Constants of CLNF that belong to the models, as opposed to user settings."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineConstants:
    """Constants of the search, the prior and the residual."""

    # sides of the response maps from coarse to fine, px of the normalised frame, at `search_radius` 1.2
    windows: tuple[int, ...] = (11, 9, 7)
    regularisation: float = 22.5  # r of NU-RLMS at the scale 0.25
    regularisation_slope: float = -15.0  # change of r for each doubling of the scale
    # standard deviation of the mean shift's Gaussian kernel at the scale 0.25, px of the normalised frame
    sigma: float = 2.25
    sigma_slope: float = 0.25  # change of sigma for each doubling of the scale
    weight: float = 2.5  # factor from the experts' confidences to W of NU-RLMS
    # exponent of the Gaussian prior of the initial landmarks in the response maps; 0 for no prior
    prior_weight: float = 0.0
    # standard deviation added (as variance) to that of the initial landmarks, units of the PDM
    prior_floor: float = 0.5
    # with a prior: response added to every cell, so that the prior decides where the experts do not respond,
    # as at occluded landmarks
    response_floor: float = 0.0
    residual_share: float = 0.0  # maximum share of the initial landmarks' residual from the PDM that is kept
    # standard deviation of a landmark at which half of `residual_share` is kept, units of the PDM
    residual_sigma: float = 3.0
    checkerboard: bool = False  # evaluate every second cell only, in a checkerboard pattern, at half the cost
    largest_scale: float = math.inf  # r is constant above this scale
    in_image: bool = False  # r refers to pixels of the image, as in OpenFace, not of the normalised frame
    # clnf-only: sides of the response maps after the first frame; 0 skips a scale
    tracked_windows: tuple[int, ...] = (0, 9, 7)
    clnf_only_iterations: int = 5  # clnf-only: NU-RLMS steps of each phase at each scale
    # clnf-only: a phase ends once the whole shape moves less than this (L2 norm), px of the image
    clnf_only_convergence: float = 0.01
    # weight of a fixed landmark in NU-RLMS relative to the largest weight of the others
    fixed_weight: float = 20.0
    # the coarsest scale is skipped if the standard deviation (root mean square) of the initial landmarks is
    # less than this share of the inter-ocular distance; 0 never skips it
    confident_sigma: float = 0.0

    def regularisation_at(self, scale: float) -> float:
        """Return r at a scale of the normalised frame; at least 0.1."""
        return max(
            0.1,
            self.regularisation
            + self.regularisation_slope * math.log2(min(scale, self.largest_scale) / 0.25),
        )

    def sigma_at(self, scale: float) -> float:
        """Return the mean shift's sigma at a scale, px of the normalised frame; at least 0.25."""
        return max(0.25, self.sigma + self.sigma_slope * math.log2(scale / 0.25))

    def window_at(self, index: int, search_radius: float) -> int:
        """Return the side of the response maps at a scale, in proportion to the radius: odd, at least 3."""
        side = self.windows[min(index, len(self.windows) - 1)] * search_radius / STANDARD_RADIUS
        return max(3, 2 * round((side - 1) / 2) + 1)


@dataclass(frozen=True)
class Steps:
    """Parameters of NU-RLMS at one scale."""

    sigma: float  # standard deviation of the mean shift's kernel, px of the frame
    regularisation: float  # r
    max_iterations: int  # of each phase: rigid, then all parameters
    # a phase ends after an iteration with a mean motion of the landmarks less than this, px of the frame
    min_motion: float
    whole: bool = False  # compare the Euclidean norm of the whole shape's motion instead


LARGEST_FACE = 1000  # px of the normalised frame
SMALLEST_SCALE = 0.1  # px per unit of the PDM: outer eye corners 9 px apart
LARGEST_SCALE = 200.0
LARGEST_MOVE = 45.0  # mean over the landmarks, units of the PDM: half the inter-ocular distance
LARGEST_GROWTH = 2.0
MIN_RESPONSE = 1e-12  # maps with a smaller sum under the kernel are ignored
STANDARD_RADIUS = 1.2  # search radius of the published windows

PUBLISHED = EngineConstants()
"""CE-CLM as published: no prior, no residual; r, sigma and W as in OpenFace 2.0."""

TUNED = EngineConstants(
    regularisation=2.0,
    regularisation_slope=-1.5,
    sigma=1.6,
    sigma_slope=0.4,
    prior_weight=0.28,
    prior_floor=2.0,
    response_floor=0.01,
    residual_share=1.0,
    residual_sigma=8.0,
    checkerboard=True,
    confident_sigma=0.06,
)
"""The constants of the bundles, tuned on held-out faces by the error of landmarks and of measures.

Compared with the constants of minimum landmark error, the shape prior is weaker and the whole residual of the
initial landmarks is kept. The landmark error is the same, and more of a face's asymmetry is preserved: the
slopes of left-right differences had been far below those of PFLD alone.
"""

OPENFACE_CEN = EngineConstants(
    windows=(11, 9, 7, 5),
    tracked_windows=(0, 9, 7, 0),
    largest_scale=0.5,
    weight=0.0,
    in_image=True,
    checkerboard=True,
)
"""CE-CLM as in OpenFace 2.2 on video; with a weight of 0, W is 1 for all landmarks visible in the view."""

OPENFACE_CCNF = EngineConstants(
    windows=(11, 9, 7),
    tracked_windows=(0, 9, 7),
    regularisation=25.0,
    sigma=1.5,
    largest_scale=0.5,
    weight=0.0,
    in_image=True,
)
"""CLNF with CCNF patch experts as in OpenFace 2.2 on video."""
