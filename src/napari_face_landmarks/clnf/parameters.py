"""Constants of CLNF that belong to the models, in contrast to the users' settings."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineConstants:
    """Constants of the search, the prior and the residual."""

    # sides of the response maps from coarse to fine, px of the normalised frame, at `search_radius` 1.2
    windows: tuple[int, ...] = (11, 9, 7)
    # regularisation, regularisation_slope: r of NU-RLMS at the scale 0.25, and its change for each doubling
    # of the scale
    regularisation: float = 22.5
    regularisation_slope: float = -15.0
    # sigma, sigma_slope: standard deviation of the mean shift's Gaussian kernel at the scale 0.25, px of the
    # normalised frame, and its change for each doubling of the scale
    sigma: float = 2.25
    sigma_slope: float = 0.25
    weight: float = 2.5  # factor from the experts' confidences to W of NU-RLMS
    # exponent of the Gaussian prior of the initial landmarks in the response maps; 0 for no prior
    prior_weight: float = 0.0
    # standard deviation added (as variance) to that of the initial landmarks, units of the PDM
    prior_floor: float = 0.5
    # response that is added to every cell of a window, for occluded landmarks: without a response of the
    # experts, the prior decides. Only with a prior
    hidden: float = 0.0
    residual_share: float = 0.0  # maximum share of the initial landmarks' residual from the PDM that is kept
    # standard deviation at which half of `residual_share` is kept, units of the PDM
    residual_sigma: float = 3.0
    # evaluate the response maps on every second cell, in a checkerboard pattern, at half the cost
    checkerboard: bool = False
    largest_scale: float = math.inf  # r changes with the scale up to this one
    # r is relative to pixels of the image, as in OpenFace's code, not of the normalised frame
    in_image: bool = False
    # in a run without PFLD: sides of the response maps after the first frame; 0 skips a scale
    followed_windows: tuple[int, ...] = (0, 9, 7)
    own_iterations: int = 5  # in a run without PFLD: NU-RLMS steps of each phase at each scale
    # in a run without PFLD: a phase ends once the whole shape moves less (L2 norm), px of the image
    own_convergence: float = 0.01
    # weight of a manual landmark in NU-RLMS relative to the most confident of the others
    held_weight: float = 20.0
    # the coarsest scale is skipped if the standard deviation (root mean square) of the initial landmarks is
    # less than this share of the inter-ocular distance; 0 never skips it
    sure_spread: float = 0.0

    def regularisation_at(self, scale: float) -> float:
        """Return r at a scale of the normalised frame, at least 0.1."""
        return max(
            0.1,
            self.regularisation
            + self.regularisation_slope * math.log2(min(scale, self.largest_scale) / 0.25),
        )

    def sigma_at(self, scale: float) -> float:
        """Return the mean shift's standard deviation at a scale, px of the normalised frame."""
        return max(0.25, self.sigma + self.sigma_slope * math.log2(scale / 0.25))

    def window_at(self, index: int, search_radius: float) -> int:
        """Return the side of the response maps at the index-th scale: odd, in proportion, at least 3."""
        side = self.windows[min(index, len(self.windows) - 1)] * search_radius / STANDARD_RADIUS
        return max(3, 2 * round((side - 1) / 2) + 1)


@dataclass(frozen=True)
class Steps:
    """Parameters of NU-RLMS at one scale."""

    sigma: float  # standard deviation of the mean shift's kernel, px of the frame
    regularisation: float  # r
    max_iterations: int  # of each of the two phases
    # a phase ends after the first iteration that moves the landmarks less on average, px of the frame
    least_motion: float
    whole: bool = False  # compare the Euclidean norm of the whole shape's motion instead


LARGEST_PICTURE = 1000  # px of the normalised frame
SMALLEST_SCALE = 0.1  # px per unit of the PDM: outer eye corners 9 px apart
LARGEST_SCALE = 200.0
LARGEST_MOVE = 45.0  # units of the PDM, half the distance of the outer eye corners, mean over landmarks
LARGEST_GROWTH = 2.0
LEAST_RESPONSE = 1e-12  # maps with less under the kernel are ignored
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
    hidden=0.01,
    residual_share=1.0,
    residual_sigma=8.0,
    checkerboard=True,
    sure_spread=0.06,
)
"""The constants of the bundles, tuned on held-out faces by measures as well as by the error.

Compared with the constants of least error, the shape prior is weaker and the whole residual of the initial
landmarks is kept: at the same error this preserves more of a face's asymmetry, for which the slopes of left
minus right had been far below those of PFLD alone.
"""

OPENFACE_CEN = EngineConstants(
    windows=(11, 9, 7, 5),
    followed_windows=(0, 9, 7, 0),
    largest_scale=0.5,
    weight=0.0,
    in_image=True,
    checkerboard=True,
)
"""CE-CLM as OpenFace 2.2 runs it on video; with the weight 0, W is 1 for every landmark that a view shows."""

OPENFACE_CCNF = EngineConstants(
    windows=(11, 9, 7),
    followed_windows=(0, 9, 7),
    regularisation=25.0,
    sigma=1.5,
    largest_scale=0.5,
    weight=0.0,
    in_image=True,
)
"""CLNF with CCNF patch experts as OpenFace 2.2 runs it on video."""
