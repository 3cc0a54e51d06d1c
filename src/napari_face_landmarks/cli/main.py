"""The command line: parser, and conversion of errors to exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from napari_face_landmarks.cli.batch import add_batch
from napari_face_landmarks.cli.benchmark import add_benchmark
from napari_face_landmarks.cli.check import add_check
from napari_face_landmarks.cli.console import PROGRAM, STATUS_ERROR, STATUS_INTERRUPTED, fail, print_stderr
from napari_face_landmarks.cli.convert import add_convert, add_formats
from napari_face_landmarks.cli.demo import add_demo
from napari_face_landmarks.cli.evaluate import add_evaluate
from napari_face_landmarks.cli.live import add_live
from napari_face_landmarks.cli.measure import add_measure
from napari_face_landmarks.cli.models import add_about, add_models
from napari_face_landmarks.cli.track import add_track
from napari_face_landmarks.errors import FaceLandmarksError, reason_of
from napari_face_landmarks.versions import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: the arguments of the process.
    """
    for stream in (sys.stdout, sys.stderr):  # their encoding may lack characters, as on Windows
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = make_parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except FaceLandmarksError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print_stderr("Stopped.")
        return STATUS_INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe, for example `| head`
        sys.stderr.close()
        return STATUS_ERROR
    except OSError as error:
        # stdout on a full disk; errors of files are raised where the files are used
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return fail(f"The output cannot be written ({reason_of(error)}): free some space.")
    except MemoryError:
        return fail("There is not enough memory: close other programs or track a shorter video.")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print_stderr(f"{PROGRAM}: {message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")
        sys.exit(STATUS_ERROR)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the parsed `run` is the function to call."""
    parser = _Parser(
        prog=PROGRAM, description="68 face landmarks on video: PFLD with CLNF refinement, on a plain CPU."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    add_track(commands)
    add_live(commands)
    add_batch(commands)
    add_demo(commands)
    add_evaluate(commands)
    add_benchmark(commands)
    add_convert(commands)
    add_check(commands)
    add_measure(commands)
    add_formats(commands)
    add_about(commands)
    add_models(commands)
    return parser
