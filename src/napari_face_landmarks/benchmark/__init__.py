"""Speed and memory of the tracker on this machine: kernels, optimisations, whole runs."""

from napari_face_landmarks.benchmark.plot import write_plot
from napari_face_landmarks.benchmark.run import Benchmark, run_benchmark
from napari_face_landmarks.benchmark.table import benchmark_table, write_table

__all__ = ["Benchmark", "benchmark_table", "run_benchmark", "write_plot", "write_table"]
