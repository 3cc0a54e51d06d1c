"""Notice to the user, once per run, that CLNF has switched on, with the expected speed."""

from __future__ import annotations

from dataclasses import dataclass

from napari_face_landmarks.data.fields import CLNF
from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.stats import RunStats

FRAMES_MEASURED = 8
"""Number of frames timed after CLNF switches on; fewer than it stays on."""


@dataclass
class RefinementNotice:
    """Watch the frames of a run in auto mode for the first one refined by CLNF."""

    switched_on: tuple[int, float] | None = None  # finished frames and elapsed seconds at the switch
    given: bool = False  # whether the sentence was returned

    def look(self, result: FrameResult, stats: RunStats) -> str | None:
        """Process a finished frame; return the sentence when it is due, once per run."""
        if self.switched_on is None:
            if (result.source == CLNF).any():
                self.switched_on = (stats.frames, stats.seconds)
        elif stats.frames - self.switched_on[0] >= FRAMES_MEASURED:
            return self.sentence(stats)
        return None

    def sentence(self, stats: RunStats) -> str | None:
        """Return the sentence if CLNF has switched on and it was not returned yet, as at the end of a run."""
        if self.switched_on is None or self.given:
            return None
        self.given = True
        text = (
            "Hard landmarks were detected (pen marks, occlusion, paralysis or pose): "
            "shape-constrained refinement (CLNF) is on."
        )
        frames = stats.frames - self.switched_on[0]
        seconds = stats.seconds - self.switched_on[1]
        if frames < 1 or seconds <= 0:
            return text
        return f"{text} Expect about {frames / seconds:.0f} frames per second on this machine while it is on."
