"""Video files: exact seeking, correct frame counts and time stamps, reading and writing."""

from napari_face_landmarks.video.arrays import FrameStream, as_frames, read_frame
from napari_face_landmarks.video.container import VIDEO_SUFFIXES
from napari_face_landmarks.video.index import VideoInfo
from napari_face_landmarks.video.opening import frame_count, open_video, probe, read_frames
from napari_face_landmarks.video.prefetch import prefetch
from napari_face_landmarks.video.reader import Video, VideoWarning
from napari_face_landmarks.video.writer import write_video

__all__ = [
    "VIDEO_SUFFIXES",
    "FrameStream",
    "Video",
    "VideoInfo",
    "VideoWarning",
    "as_frames",
    "frame_count",
    "open_video",
    "prefetch",
    "probe",
    "read_frame",
    "read_frames",
    "write_video",
]
