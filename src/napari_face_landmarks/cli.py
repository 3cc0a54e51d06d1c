"""The command line ``napari-face-landmarks``: track a video, convert results, run the demo, measure.

Errors are one sentence on stderr with exit status 2; after Ctrl-C (status 130) and after a failure half way,
what was computed so far is written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from napari_face_landmarks.errors import FaceLandmarksError, ResultError
from napari_face_landmarks.settings import (
    DEFAULT_PRESET,
    PRESETS,
    REFINE_MODES,
    TrackerSettings,
)

if TYPE_CHECKING:
    from napari_face_landmarks.batch.job import FileResult
    from napari_face_landmarks.batch.recording import Recording
    from napari_face_landmarks.demo import DemoResult
    from napari_face_landmarks.models import Models
    from napari_face_landmarks.tracking import FaceTracker, Tracks
    from napari_face_landmarks.video import Video

PROGRAM = "napari-face-landmarks"
OVERLAY_SUFFIXES = (".mp4", ".m4v", ".mkv", ".mov", ".avi")
STATUS_ERROR = 2
STATUS_INTERRUPTED = 130
PATIENCE = 2.0
"""Seconds without a result after which the user is told why."""
PREPARING = "Preparing: the first run after an installation compiles for some seconds …"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process where not given.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FaceLandmarksError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _say("Stopped.")
        return STATUS_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed it, for example `| head`
        sys.stderr.close()
        return STATUS_ERROR
    except MemoryError:
        return _fail("There is not enough memory: close other programs or track a shorter video.")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _say(f"{PROGRAM}: {message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")
        sys.exit(STATUS_ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM, description="68 face landmarks on video: PFLD with CLNF refinement, on a plain CPU."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version(PROGRAM)}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    track = commands.add_parser(
        "track",
        help="track the faces of a video",
        description="Track the faces of a video and write their landmarks, in OpenFace's columns or another "
        "format.",
    )
    track.add_argument("video", metavar="VIDEO", type=Path, help="mp4, avi, mov, mkv, webm or mpg")
    track.add_argument(
        "-o",
        "--output",
        metavar="OUT.csv",
        type=Path,
        required=True,
        help="landmarks: .csv in OpenFace's columns, .npz with the settings and counts as well, or another "
        "format that `formats` lists",
    )
    _add_format_option(track)
    track.add_argument(
        "--stats", metavar="STATS.json", type=Path, help="counts, frames per second, seconds of each stage"
    )
    track.add_argument(
        "--overlay", metavar="OUT.mp4", type=Path, help="the video with the landmarks drawn on it"
    )
    track.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that was interrupted, from the journal that it left beside OUT; the landmarks "
        "are those of an uninterrupted run",
    )
    track.add_argument(
        "--threads",
        metavar="N",
        type=_count,
        help="compute with so many threads, beside the decoding; default: one for each processor core, at "
        "most 4. The landmarks do not depend on it.",
    )
    _add_models_option(track)
    _add_settings_options(track)
    track.set_defaults(run=_track)

    _add_batch(commands)

    demo = commands.add_parser(
        "demo",
        help="track a face whose motion is known",
        description="Make a clip of a moving face from a bundled photograph, track it and measure the "
        "landmarks against the known motion. Nothing is downloaded.",
    )
    demo.add_argument(
        "--output", metavar="FOLDER", type=Path, default=Path("demo-output"), help="default: %(default)s"
    )
    demo.add_argument("--open", action="store_true", help="show the clip and its landmarks in napari")
    _add_models_option(demo)
    _add_settings_options(demo)
    demo.set_defaults(run=_demo)

    _add_evaluate(commands)
    _add_benchmark(commands)

    convert = commands.add_parser(
        "convert",
        help="change the format of a file of landmarks",
        description="Read landmarks from a file of any format, and write them in another.",
    )
    convert.add_argument("input", metavar="IN", type=Path, help="a file in a format that `formats` lists")
    convert.add_argument("output", metavar="OUT", type=Path, help="its suffix chooses the format")
    _add_format_option(convert)
    convert.set_defaults(run=_convert)

    _add_check(commands)

    formats = commands.add_parser("formats", help="list the formats of files of landmarks")
    formats.set_defaults(run=_formats)

    about = commands.add_parser("about", help="print the versions of everything, for reports of bugs")
    about.set_defaults(run=_about)

    models = commands.add_parser("models", help="list the model bundles and their licences")
    models.add_argument("--markdown", action="store_true", help="print the whole model cards")
    models.set_defaults(run=_models)
    return parser


def _add_check(commands: Any) -> None:
    from napari_face_landmarks.quality import Limits

    parser = commands.add_parser(
        "check",
        help="list the frames of a file of landmarks that a person should look at",
        description="Read landmarks from a file of any format, and print the statistics of the run and the "
        "frames that should be looked at, the worst first: low confidence, jumps, lost faces, and where PFLD "
        "and CLNF disagree.",
    )
    parser.add_argument("input", metavar="FILE", type=Path, help="a file in a format that `formats` lists")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.csv|OUT.json",
        type=Path,
        help="write the whole list as a table, or with the statistics as JSON",
    )
    parser.add_argument(
        "--series", metavar="OUT.csv", type=Path, help="write a table with a row for each face and frame"
    )
    parser.add_argument(
        "--most", metavar="N", type=_count, default=20, help="print no more than N; default: %(default)s"
    )
    group = parser.add_argument_group("limits, from where on a frame is listed")
    for item in dataclasses.fields(Limits):
        option, text = "--" + item.name.replace("_", "-"), item.metadata["help"]
        group.add_argument(option, metavar="X", type=_number, help=f"{text} Default: {item.default}.")
    parser.set_defaults(run=_check)


def _add_batch(commands: Any) -> None:
    batch = commands.add_parser(
        "batch",
        help="track many videos, each into a file of its own",
        description="Track many videos in processes side by side or on a Dask cluster. A video that fails "
        "stops no other; those whose file is there already are left out. The folder gets batch-summary.csv "
        "and .txt. The exit status is 0 if every video has its landmarks, else 2.",
    )
    batch.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="videos, folders of videos with all folders in them, and patterns such as 'day1/*.mp4'",
    )
    batch.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="made if need be")
    batch.add_argument(
        "--format", metavar="NAME", help="a format that `formats` lists; default: openface (.csv)"
    )
    batch.add_argument(
        "--jobs", metavar="N", type=_count, help="processes at a time; default: one for each processor core"
    )
    batch.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="have the workers of a Dask cluster do the work, such as tcp://host:8786; they must see the "
        "videos and FOLDER under the same paths",
    )
    batch.add_argument(
        "--resume",
        action="store_true",
        help="go on with videos whose run was interrupted, in place of beginning them anew",
    )
    batch.add_argument(
        "--cut",
        metavar="FRAMES",
        type=_count,
        help="cut videos of twice as many frames and more into pieces of about so many, tracked side by "
        "side; where a seam could be told (1e-4 px) the frames are tracked again without one",
    )
    batch.add_argument(
        "--settings",
        metavar="FILE.json",
        type=Path,
        help='settings as JSON, such as {"refine": "always"}; options given here override them',
    )
    _add_models_option(batch)
    _add_settings_options(batch)
    batch.set_defaults(run=_batch)


def _add_evaluate(commands: Any) -> None:
    from napari_face_landmarks.evaluation import choices

    parser = commands.add_parser(
        "evaluate",
        help="measure the bundles on labelled faces",
        description="Fit labelled faces with every bundle, refine mode and perturbation, and print the "
        "errors, failures and what the confidence is worth. The files are .npz with the arrays webp, "
        "offsets, names and landmarks; see the README.",
    )
    parser.add_argument("files", metavar="FILE.npz", type=Path, nargs="+", help="labelled faces")
    parser.add_argument(
        "--models", metavar="NAME|FOLDER", nargs="+", help="bundles; where not given, all that `models` lists"
    )
    parser.add_argument(
        "--refine",
        nargs="+",
        choices=REFINE_MODES,
        default=list(choices.DEFAULT_REFINE),
        help="one or more of %(choices)s; default: off always",
    )
    parser.add_argument(
        "--boxes",
        choices=choices.BOX_SOURCES,
        default=choices.DEFAULT_BOXES,
        help="where the faces' boxes come from: the labels (truth), the labels moved by 4 %% of the face as "
        "a tracker's boxes are (jitter), or the bundle's detector; default: %(default)s",
    )
    parser.add_argument(
        "--perturb",
        nargs="+",
        choices=(*choices.CONDITIONS, "all"),
        default=list(choices.DEFAULT_CONDITIONS),
        metavar="WHAT",
        help=f"what is done to the pictures: {', '.join(choices.CONDITIONS)} or all of these; default: none",
    )
    parser.add_argument(
        "--faces",
        choices=choices.SIDES,
        default=choices.DEFAULT_SIDE,
        help="all faces of the files, or those on one side of the split that training makes by the faces' "
        "names; default: %(default)s",
    )
    parser.add_argument("--json", metavar="OUT.json", type=Path, help="write everything, each face included")
    parser.add_argument("--table", metavar="OUT.md", type=Path, help="write Markdown tables")
    parser.add_argument("--limit", metavar="N", type=_count, help="draw no more than N faces")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of all chance; default: %(default)s"
    )
    parser.add_argument(
        "--threads", metavar="N", type=_count, help="faces at a time; default: one for each processor core"
    )
    parser.set_defaults(run=_evaluate)


def _add_benchmark(commands: Any) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="measure how fast the tracker is on this machine",
        description="Time every part of a frame's work, add the optimisations to the plain method one by "
        "one, and time whole runs. It takes some minutes, and its figures mean something only while nothing "
        "else runs.",
    )
    parser.add_argument(
        "videos",
        metavar="VIDEO",
        type=Path,
        nargs="+",
        help="with a face; all but the whole runs use the first",
    )
    _add_models_option(parser)
    parser.add_argument("--json", metavar="OUT.json", type=Path, help="write everything as JSON")
    parser.add_argument(
        "--table",
        metavar="OUT.md",
        type=Path,
        help="write Markdown tables; into a file with the markers of the README's tables, between these",
    )
    parser.add_argument("--plot", metavar="OUT.png", type=Path, help="draw the optimisations and the rates")
    parser.add_argument(
        "--quick", action="store_true", help="try every part on a few frames; the figures mean little"
    )
    parser.set_defaults(run=_benchmark)


def _add_models_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        metavar="NAME|FOLDER",
        help="a bundle that `models` lists, or a folder of one; openface, or a folder of OpenFace's models "
        "or of a landmark network with a pfld.json; where not given, the first bundle that is listed",
    )


def _add_format_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="the format of OUT, where several that `formats` lists share its suffix",
    )


def _add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of TrackerSettings; ranges, texts and defaults are the field's."""
    group = parser.add_argument_group("settings of the tracker")
    purposes = " ".join(f"{item.name}: {item.help}" for item in PRESETS).replace("%", "%%")
    group.add_argument(
        "--preset",
        choices=[item.name for item in PRESETS],
        default=DEFAULT_PRESET,
        help=f"settings for a purpose, which the options below change. {purposes} Default: %(default)s.",
    )
    for item in dataclasses.fields(TrackerSettings):
        text = item.metadata["help"].replace("%", "%%")
        option = "--" + item.name.replace("_", "-")
        if item.name == "refine":
            group.add_argument(option, choices=REFINE_MODES, help=f"{text} Default: {item.default}.")
            continue
        low, high = item.metadata["low"], item.metadata["high"]
        group.add_argument(
            option,
            metavar="N" if item.type == "int" else "X",
            type=_number,
            help=f"{text} From {low:g} to {high:g}, default: {item.default}.",
        )


def _number(text: str) -> int | float | str:
    """Return the number that `text` is; what is none is left to the check of TrackerSettings to refuse."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _count(text: str) -> int:
    number = _number(text)
    if not isinstance(number, int) or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return number


def _settings(options: argparse.Namespace) -> TrackerSettings:
    names = [item.name for item in dataclasses.fields(TrackerSettings)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return TrackerSettings.preset(options.preset, **given)


def _track(options: argparse.Namespace) -> int:
    settings = _settings(options)
    outputs = _checked_outputs(options)

    from napari_face_landmarks.batch.recording import Recording, journal_of
    from napari_face_landmarks.models import load_models
    from napari_face_landmarks.tracking import FaceTracker

    with _opened(options.video) as video:
        for path in outputs:
            _prepare_place(path)
        tracker = FaceTracker(load_models(*_given(options.models)), settings, options.threads)
        recording = Recording.begin(tracker, video, journal_of(options.output), resume=options.resume)
        whole = False
        try:
            tracks, interrupted = _follow(tracker, recording)
            whole = not tracks.n_frames
            if not tracks.n_frames:
                _say("Stopped before the first frame was done; nothing is written.")
                return STATUS_INTERRUPTED
            tracks.save(options.output, options.format)
            whole = not interrupted
        finally:  # what is not in another file stays in the journal
            recording.close(remove=whole)
        if options.stats is not None:
            _write_stats(options.stats, tracks, options.video)
        _say(_summary(tracks))
        if options.overlay is not None and not interrupted:
            _write_overlay(options.overlay, video, tracks)
    for sentence in dict.fromkeys([*video.info.warnings, *tracks.warnings]):
        _say(f"Warning: {sentence}")
    if interrupted:
        _say(
            f"Stopped after {tracks.n_frames} of {len(video)} frames; they are in {options.output}, and "
            "--resume goes on."
        )
        return STATUS_INTERRUPTED
    if video.info.warnings or not tracks.stats.completed:
        return _fail(
            f"{options.video} breaks off: the {tracks.n_frames} frames that could be read are in "
            f"{options.output}."
        )
    if tracks.stats.faces == 0:
        return _fail(
            f"No face was found on any frame of {options.video}: check that it shows a face, upright and not "
            "too small, or lower --min-confidence."
        )
    return 0


def _batch(options: argparse.Namespace) -> int:
    from napari_face_landmarks.batch.many import read_settings, succeeded, track_many
    from napari_face_landmarks.batch.summary import summary_text

    settings = _settings(options)
    if options.settings is not None:
        names = [item.name for item in dataclasses.fields(TrackerSettings)]
        given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        settings = read_settings(options.settings).replace(**given)
    with _batch_bars() as (progress, on_result):
        results = track_many(
            options.inputs,
            options.output,
            models=options.models,
            settings=settings,
            format=options.format,
            jobs=options.jobs,
            scheduler=options.scheduler,
            resume=options.resume,
            cut_at=options.cut,
            progress=progress,
            on_result=on_result,
        )
    print(summary_text(results))
    return 0 if succeeded(results) else STATUS_ERROR


@contextlib.contextmanager
def _batch_bars() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[FileResult], None]]]:
    """Show a bar for each video at work on a terminal, and a line for each that is finished."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    on_terminal = sys.stderr.isatty()
    overall = tqdm(desc="Batch", unit=" videos", file=sys.stderr, disable=not on_terminal)

    def progress(video: str, done: int, total: int) -> None:
        if not on_terminal:
            return
        if video not in bars:
            bars[video] = tqdm(
                total=total, desc=Path(video).name[:30], unit=" frames", leave=False, file=sys.stderr
            )
        bars[video].update(done - bars[video].n)

    def on_result(result: FileResult) -> None:
        if result.video in bars:
            bars.pop(result.video).close()
        overall.update()
        text = f"{result.frames} frames, {result.fps:.0f} frames per second" if result.frames else ""
        told = result.reason or ("in an earlier run" if result.earlier else text)
        tqdm.write(f"{result.video}: {result.status}; {told}", file=sys.stderr)

    try:
        yield progress, on_result
    finally:
        for bar in bars.values():
            bar.close()
        overall.close()


def _demo(options: argparse.Namespace) -> int:
    settings = _settings(options)

    from napari_face_landmarks.demo import N_FRAMES, run_demo
    from napari_face_landmarks.models import load_models

    models = load_models(*_given(options.models))
    with _progress_bar("Tracking", N_FRAMES) as advance:
        result = run_demo(options.output, models, settings, progress=lambda done, total: advance())
    _say(_summary(result.tracks))
    print(f"Mean distance to the known motion: {100 * result.distance:.2f} % of the inter-ocular distance.")
    for path in (result.csv, result.overlay, result.sheet, result.clip):
        print(path)
    if options.open:
        _show(result)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    _check_distinct(options.files, [path for path in (options.json, options.table) if path is not None])

    from napari_face_landmarks.evaluation.choices import CONDITIONS
    from napari_face_landmarks.evaluation.labelled import read_faces
    from napari_face_landmarks.evaluation.measure import Plan, fit_faces, pooled_poor_fits, summarise
    from napari_face_landmarks.evaluation.report import to_json, to_markdown, to_text
    from napari_face_landmarks.export.files import replacing
    from napari_face_landmarks.models import list_models

    plan = Plan(
        refine=tuple(dict.fromkeys(options.refine)),
        conditions=CONDITIONS if "all" in options.perturb else tuple(dict.fromkeys(options.perturb)),
        boxes=options.boxes,
        seed=options.seed,
        threads=options.threads or len(_cores()),
    )
    faces = read_faces(options.files, options.faces, options.limit, options.seed)
    bundles = _bundles(options.models or list_models())
    for path in (options.json, options.table):
        if path is not None:
            _prepare_place(path)
    for sentence in _trained_on(bundles, faces.files) if options.faces != "held-out" else ():
        _say(f"Warning: {sentence}")
    with _progress_bar("Evaluating", len(faces), "faces") as advance:
        fits = fit_faces(faces, bundles, plan, advance)
    summaries, pooled = summarise(fits), pooled_poor_fits(fits)
    if options.json is not None:
        record = to_json(summaries, pooled, faces, options.faces, plan, bundles)
        with replacing(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.table is not None:
        with replacing(options.table) as temporary:
            temporary.write_text(to_markdown(summaries, pooled, faces, options.faces, plan), encoding="utf-8")
    print(to_text(summaries, pooled), end="")
    return 0


def _benchmark(options: argparse.Namespace) -> int:
    written = {".json": options.json, ".md": options.table, ".png": options.plot}
    _check_distinct(options.videos, [path for path in written.values() if path is not None])
    for suffix, path in written.items():
        if path is not None and path.suffix.lower() != suffix:
            raise ResultError(f"{path} does not end in {suffix}: give a name that does.")

    from napari_face_landmarks.benchmark import run_benchmark, write_plot, write_table
    from napari_face_landmarks.benchmark.run import QUICK, Effort
    from napari_face_landmarks.models import load_models

    models = load_models(*_given(options.models))
    for path in written.values():
        if path is not None:
            _prepare_place(path)
    result = run_benchmark(options.videos, models, effort=QUICK if options.quick else Effort(), say=_print)
    if options.json is not None:
        result.save(options.json)
    if options.table is not None:
        write_table(options.table, result)
    if options.plot is not None:
        write_plot(options.plot, result)
    return 0


def _check_distinct(read: Sequence[Path], written: Sequence[Path]) -> None:
    """Refuse to write one file twice, or over a file that is read."""
    for index, path in enumerate(written):
        if path.absolute() in [other.absolute() for other in written[:index]]:
            raise ResultError(f"{path} is named twice: give each file that is written a name of its own.")
        if any(_same(path, other) for other in read):
            raise ResultError(f"{path} is one of the files to read: give another name for what is written.")


def _same(path: Path, other: Path) -> bool:
    """Return whether two names are of one file; names that no file can have are of none."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _cores() -> set[int]:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _bundles(names: Sequence[str]) -> dict[str, Models]:
    """Load bundles; two of one name are told apart by what the user called them."""
    from napari_face_landmarks.models import load_models

    bundles: dict[str, Models] = {}
    for given in dict.fromkeys(names):
        models = load_models(given)
        bundles[models.name if models.name not in bundles else given] = models
    return bundles


def _trained_on(bundles: Mapping[str, Models], files: Sequence[str]) -> list[str]:
    """Return a sentence for each bundle that was trained on one of the files, as its card says."""
    sentences = []
    for name, models in bundles.items():
        data = models.card.get("trained_on")
        entries = [str(item.get("data")) for item in data if isinstance(item, dict)] if data else []
        known = {entry.rsplit("/", 1)[-1] for entry in entries}
        seen = [Path(file).name for file in files if Path(file).stem in known]
        if seen:
            sentences.append(
                f"The bundle {name} was trained on faces of {', '.join(seen)}: --faces held-out measures on "
                "those that it has not seen."
            )
    return sentences


def _convert(options: argparse.Namespace) -> int:
    from napari_face_landmarks.export.formats import format_to_write, read_tracks

    chosen = format_to_write(options.output, options.format)
    if _same(options.output, options.input):
        raise ResultError(
            f"{options.output} is the file that is read: give another name for what is written."
        )
    tracks = read_tracks(options.input)
    _prepare_place(options.output)
    chosen.write(options.output, tracks)
    _say(
        f"{tracks.n_frames} frames, {int(tracks.present.sum())} faces on them, written as {chosen.title}; "
        f"it loses {chosen.loses}."
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    from napari_face_landmarks.export.formats import read_tracks
    from napari_face_landmarks.quality import Limits, check, write_series, write_suspects
    from napari_face_landmarks.quality.report import SUFFIXES, checked_name

    names = [item.name for item in dataclasses.fields(Limits)]
    limits = Limits(**{name: getattr(options, name) for name in names if getattr(options, name) is not None})
    outputs = {options.output: SUFFIXES, options.series: (".csv",)}
    _check_distinct([options.input], [path for path in (options.output, options.series) if path is not None])
    for path, suffixes in outputs.items():
        if path is not None:
            _prepare_place(checked_name(path, suffixes))
    found = check(read_tracks(options.input), limits)
    for sentence in found.words:
        print(sentence)
    several = len(found.statistics.faces) > 1
    for item in found.suspects[: options.most]:
        face = f" face {item.face}" if several else ""
        span = f" (frames {item.first} to {item.last})" if item.last > item.first else ""
        print(f"  frame {item.frame}{face}  {item.text}{span}")
    if len(found.suspects) > options.most:
        print(f"  and {len(found.suspects) - options.most} more")
    if options.output is not None:
        write_suspects(options.output, found)
    if options.series is not None:
        write_series(options.series, found.series)
    return 0


def _formats(options: argparse.Namespace) -> int:
    from napari_face_landmarks.export.formats import FORMATS
    from napari_face_landmarks.export.optional import installed

    for item in FORMATS:
        missing = [name for name in item.needs if not installed(name)]
        print(f"{item.name}: {item.title} ({', '.join(item.suffixes)})")
        print(f"    read by: {item.read_by}")
        print(f"    loses: {item.loses}")
        if missing:
            print(f"    needs: pip install {' '.join(missing)}")
    return 0


def _about(options: argparse.Namespace) -> int:
    from napari_face_landmarks.versions import about

    print(about())
    return 0


def _models(options: argparse.Namespace) -> int:
    from napari_face_landmarks.models import list_models, load_card
    from napari_face_landmarks.models.card import card_markdown, held_out_error
    from napari_face_landmarks.models.openface import LICENCE, VERSION, openface_folder

    for name in list_models():
        card = load_card(name)
        if options.markdown:
            print(card_markdown(card))
            continue
        print(f"{name} {card['version']}: {card['licence']}")
        if isinstance(card.get("terms"), str):
            print(f"    {card['terms']}")
        data = card.get("trained_on")
        if isinstance(data, list):
            names = [str(item["data"]) for item in data if isinstance(item, dict) and "data" in item]
            print(f"    trained on: {', '.join(names)}")
        error = held_out_error(card)
        if error is not None:
            print(
                f"    mean error on faces of 300-W held out: {100 * error:.2f} % of the inter-ocular distance"
            )
    if not options.markdown and (folder := openface_folder()) is not None:
        print(f"openface {VERSION}: {LICENCE}\n    {folder}")
    return 0


def _opened(path: Path) -> Video:
    """Open a video; that it is cut off is told at the end, after its frames are safe."""
    from napari_face_landmarks.video import VideoWarning, open_video

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        return open_video(path)


def _follow(tracker: FaceTracker, recording: Recording) -> tuple[Tracks, bool]:
    """Do the frames of a run that are left; return all its tracks and whether Ctrl-C ended it."""
    from napari_face_landmarks.tracking.notice import RefinementNotice

    notice = RefinementNotice()
    automatic = tracker.settings.refine == "auto"
    if recording.kept:
        _say(f"{recording.kept} of {recording.total} frames were done before; going on from there.")
    with (
        _told_if_slow() as has_begun,
        _until_interrupted() as interrupted,
        _progress_bar("Tracking", recording.total - recording.kept) as advance,
    ):
        results = recording.results()
        # the second Ctrl-C, where a frame takes long, comes as an exception
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(results):
            for result in results:
                has_begun()
                advance()
                if automatic and tracker.last_run is not None:
                    _tell(notice.look(result, tracker.last_run.stats))
                if interrupted():
                    break
        if automatic and tracker.last_run is not None:
            _tell(notice.sentence(tracker.last_run.stats))
        return recording.tracks(), interrupted()


@contextlib.contextmanager
def _told_if_slow() -> Iterator[Callable[[], None]]:
    """Say after a while that the kernels are being compiled, unless the function was called by then."""
    timer = threading.Timer(PATIENCE, _say, [PREPARING])
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


@contextlib.contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C inside the block into an answer of True, so that no frame is left half done."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _progress_bar(what: str, total: int, unit: str = "frames") -> Iterator[Callable[[], None]]:
    """Show a bar on stderr with frames per second and the time left; call the function for each frame."""
    from tqdm import tqdm

    # a file or a pipe gets a line now and then, a terminal a moving bar
    seconds = 0.2 if sys.stderr.isatty() else 10.0
    bars: list[Any] = []

    def advance() -> None:
        if not bars:  # loading and compiling before the first frame say nothing of the time left
            bars.append(tqdm(total=total, desc=what, unit=f" {unit}", mininterval=seconds, file=sys.stderr))
        bars[0].update()
        if bars[0].n >= total:
            bars[0].close()

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


def _write_overlay(path: Path, video: Video, tracks: Tracks) -> None:
    from napari_face_landmarks.export import write_overlay

    with _progress_bar("Overlay", tracks.n_frames) as advance:
        write_overlay(path, video, tracks, progress=lambda done, total: advance())


def _write_stats(path: Path, tracks: Tracks, video: Path) -> None:
    from napari_face_landmarks.export.files import replacing

    record = {
        **tracks.stats.to_dict(),
        "video": str(video),
        "meta": dict(tracks.meta),
        "settings": tracks.settings.to_dict(),
        "warnings": list(tracks.warnings),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _summary(tracks: Tracks) -> str:
    stats = tracks.stats
    return (
        f"{stats.frames} frames, {stats.frames_with_faces} with a face; {stats.faces} faces found, of which "
        f"{stats.refined} refined, {stats.carried} carried, {stats.low_confidence} of low confidence; "
        f"{stats.fps:.1f} frames per second."
    )


def _checked_outputs(options: argparse.Namespace) -> list[Path]:
    """Return the files to write, refusing names that cannot work before anything is computed."""
    from napari_face_landmarks.export.formats import format_to_write

    outputs: list[Path] = []
    for path, suffixes in (
        (options.output, ()),
        (options.stats, (".json",)),
        (options.overlay, OVERLAY_SUFFIXES),
    ):
        if path is None:
            continue
        if path.absolute() in [other.absolute() for other in outputs]:
            raise ResultError(f"{path} is named twice: give each file that is written a name of its own.")
        if path is options.output:
            format_to_write(path, options.format)
        elif path.suffix.lower() not in suffixes:
            raise ResultError(f"{path} does not end in {' or '.join(suffixes)}: give a name that does.")
        if _same(path, options.video):
            raise ResultError(f"{path} is the video itself: give another name for what is written.")
        outputs.append(path)
    return outputs


def _prepare_place(path: Path) -> None:
    """Make the folder of a file to be written if need be, and refuse where nothing can be written."""
    from napari_face_landmarks.export.files import check_writable

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ResultError(f"The folder {path.parent} cannot be made ({reason}): choose another.") from error
    check_writable(path)


def _show(result: DemoResult) -> None:
    """Open the demo's clip and landmarks in a napari window; returns when it is closed."""
    try:
        import napari
        from qtpy import QtWidgets  # noqa: F401  # napari alone imports without a window toolkit
    except Exception:
        raise ResultError(
            'There is no window toolkit to show the result with: pip install "napari-face-landmarks[gui]".'
        ) from None
    from napari.layers import Layer

    viewer = napari.Viewer()
    (clip,) = viewer.open(result.clip, plugin=PROGRAM)
    for data in result.tracks.to_layer_data(clip):
        viewer.add_layer(Layer.create(*data))
    napari.run()


def _given(value: Any) -> list[Any]:
    return [] if value is None else [value]


def _fail(sentence: str) -> int:
    _say(f"{PROGRAM}: {sentence}")
    return STATUS_ERROR


def _tell(sentence: str | None) -> None:
    """Say something while a progress bar is shown."""
    if sentence is not None:
        from tqdm import tqdm

        tqdm.write(sentence, file=sys.stderr)


def _print(text: str) -> None:
    print(text, flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
