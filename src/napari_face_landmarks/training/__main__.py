"""Train the models: ``python -m napari_face_landmarks.training STEP --data FOLDER --out FOLDER``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.training.bundle import CARDS

STEPS = {
    "pdm": "the point distribution model",
    "detector": "the face detector",
    "pfld": "the landmark network",
    "cen": "the patch experts (needs the point distribution model)",
    "evaluate": "measure a bundle on the held-out faces",
    "bundle": "put the files together and write the model card",
}


def _module(step: str) -> object:
    return importlib.import_module(f"napari_face_landmarks.training.{step}")


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, required=True, help="the folder of training data")
    common.add_argument("--bundle", choices=sorted(CARDS), default="research", help="default: %(default)s")
    common.add_argument("--out", type=Path, default=Path("runs"), help="default: %(default)s")
    return common


def main(arguments: list[str] | None = None) -> int:
    """Run one training step, or all of them one after the other.

    Each step resumes from its checkpoint in OUT where an earlier run of it was stopped.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m napari_face_landmarks.training", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    wanted = arguments[0] if arguments and arguments[0] in STEPS else None
    for name, text in STEPS.items():
        sub = steps.add_parser(
            name, parents=[_common()], help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        if name == wanted:  # only that step's module is imported: the detector needs torch, the PDM does not
            _module(name).add_arguments(sub)  # type: ignore[attr-defined]
    steps.add_parser("all", parents=[_common()], help="every step with its defaults")
    args = parser.parse_args(arguments)
    if not args.data.is_dir():
        print(f"{args.data} is no folder: give the folder of training data with --data.", file=sys.stderr)
        return 2
    try:
        if args.step != "all":
            _module(args.step).run(args)  # type: ignore[attr-defined]
            return 0
        for name in (step for step in STEPS if step != "evaluate"):
            print(f"== {name}: {STEPS[name]}", flush=True)
            shared = ["--data", str(args.data), "--bundle", args.bundle, "--out", str(args.out)]
            status = main([name, *shared])
            if status:
                return status
        return 0
    except FaceLandmarksError as error:
        print(error, file=sys.stderr)
        return 2
    except FileNotFoundError as error:
        print(f"{error.filename} is missing: give the complete folder of training data.", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
