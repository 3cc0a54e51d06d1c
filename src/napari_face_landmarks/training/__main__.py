"""Train the models: ``python -m napari_face_landmarks.training STEP --data FOLDER --out FOLDER``."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from napari_face_landmarks.errors import FaceLandmarksError

STEPS = {
    "pdm": "the point distribution model",
    "detector": "the face detector",
    "pfld": "the landmark network",
    "parts": "the networks for the eyes and the mouth",
    "cen": "the patch experts (needs the point distribution model)",
    "linear-maps": "the final linear maps of the landmarks (needs pfld and parts)",
    "evaluate": "measure a bundle on the held-out faces",
    "held-out": "write held-out faces for the command evaluate --measures",
    "errors": "measure the covariance of landmark errors, for the standard errors of measures",
    "bundle": "collect the files and write the model card",
}

STAGES = (("pdm",), ("detector", "pfld", "parts", "cen"), ("linear-maps",), ("bundle",))
"""Steps of ``all``; the steps of a stage are independent of each other."""
LAST_STEPS = ("linear-maps", "bundle")
"""Steps that are always run again, since they depend on the output of others; they take a minute or two."""
MODULE_OF = {"linear-maps": "linear_calibration", "held-out": "held_out", "errors": "landmark_errors"}
RENAMED = {"settle": "linear-maps"}
"""Names of steps up to bundle 0.4.2, still accepted."""
CAN_START = ("detector", "pfld", "parts")
"""Steps with the option ``--start``."""


def _module(step: str) -> object:
    name = MODULE_OF.get(step, step)
    return importlib.import_module(f"napari_face_landmarks.training.{name}")


def make_parser(step: str | None = None) -> argparse.ArgumentParser:
    """Return the command-line parser; only the module of `step` is imported, to add its options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, required=True, help="the folder of training data")
    common.add_argument("--bundle", choices=("open", "research"), default="open", help="default: %(default)s")
    common.add_argument("--out", type=Path, default=Path("runs"), help="default: %(default)s")
    parser = argparse.ArgumentParser(prog="python -m napari_face_landmarks.training", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, text in STEPS.items():
        description = f"{text[0].upper()}{text[1:]}."
        sub = steps.add_parser(name, parents=[common], help=text, description=description)
        if name == step:  # the detector needs torch, the PDM does not
            _module(name).add_arguments(sub)  # type: ignore[attr-defined]
    all_steps = steps.add_parser("all", parents=[common], help="all steps of a bundle with their defaults")
    all_steps.add_argument(
        "--jobs", type=int, default=1, help="steps to run in parallel, 3 on three cores or more (default 1)"
    )
    all_steps.add_argument(
        "--start", type=Path, help="OUT of another bundle's training: continue from its networks"
    )
    all_steps.add_argument(
        "--pfld-steps", type=int, help="optimiser steps of PFLD, the longest part (default: as in step pfld)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one training step, or all; an interrupted step resumes from its checkpoint in OUT."""
    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = [RENAMED.get(step, step) for step in arguments[:1]] + arguments[1:]
    args = make_parser(arguments[0] if arguments and arguments[0] in STEPS else None).parse_args(arguments)
    if not args.data.is_dir():
        print(f"{args.data} is not a folder: give the folder of training data with --data.", file=sys.stderr)
        return 2
    try:
        if args.step != "all":
            _module(args.step).run(args)  # type: ignore[attr-defined]
            return 0
        return train_all(args.data, args.bundle, args.out, args.start, args.jobs, args.pfld_steps)
    except FaceLandmarksError as error:
        print(error, file=sys.stderr)
        return 2
    except FileNotFoundError as error:
        print(f"{error.filename} is missing: give the complete folder of training data.", file=sys.stderr)
        return 2


def train_all(
    data: Path, bundle: str, out: Path, start: Path | None, jobs: int, pfld_steps: int | None = None
) -> int:
    """Run every step in a subprocess, `jobs` steps of a stage in parallel; return the exit status.

    The output of a step is also appended to ``OUT/STEP.out``. Finished steps (``OUT/STEP.done``) are skipped.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        with ThreadPoolExecutor(max(jobs, 1)) as pool:
            commands = [_command(step, data, bundle, out, start, pfld_steps) for step in stage]
            statuses = list(pool.map(_run_step, stage, commands, [out] * len(stage)))
        if any(statuses):
            return max(statuses)
    return 0


def _command(
    step: str, data: Path, bundle: str, out: Path, start: Path | None, pfld_steps: int | None
) -> list[str]:
    command = [sys.executable, "-m", "napari_face_landmarks.training", step]
    command += ["--data", str(data), "--bundle", bundle, "--out", str(out)]
    if start is not None and step in CAN_START:
        command += ["--start", str(start)]
    if pfld_steps is not None and step == "pfld":
        command += ["--steps", str(pfld_steps)]
    return command


def _run_step(step: str, command: Sequence[str], out: Path) -> int:
    print(f"== {step}: {STEPS[step]}", flush=True)
    done, request = out / f"{step}.done", "\n".join(command[1:]) + "\n"
    if step not in LAST_STEPS and done.exists() and done.read_text() == request:
        print(f"== {step} is already done", flush=True)
        return 0
    done.unlink(missing_ok=True)  # the step is about to overwrite its output
    with (
        open(out / f"{step}.out", "ab") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None
        while chunk := process.stdout.read1(4096):  # type: ignore[attr-defined]
            log.write(chunk)
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
    print(f"== {step} ended with status {process.returncode}", flush=True)
    if process.returncode == 0:
        done.write_text(request)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
