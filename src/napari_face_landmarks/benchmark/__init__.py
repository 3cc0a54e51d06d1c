"""Benchmark of the tracker on this machine: kernels, optimisations, whole runs, races with other trackers."""

from napari_face_landmarks.benchmark.plot import write_plot, write_race_plot
from napari_face_landmarks.benchmark.race import Peer, Race, race_table, run_race, write_race_table
from napari_face_landmarks.benchmark.run import Benchmark, run_benchmark
from napari_face_landmarks.benchmark.table import benchmark_table, write_table

__all__ = [
    "Benchmark",
    "Peer",
    "Race",
    "benchmark_table",
    "race_table",
    "run_benchmark",
    "run_race",
    "write_plot",
    "write_race_plot",
    "write_race_table",
    "write_table",
]
