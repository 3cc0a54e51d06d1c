"""The READMEs are true: commands and scripts run, tables are current, links are valid."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import napari_face_landmarks
from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, cli, list_models, load_models
from napari_face_landmarks.benchmark import race
from napari_face_landmarks.cli.main import make_parser
from napari_face_landmarks.demo import make_demo_clip
from napari_face_landmarks.settings import settings_from_dict
from napari_face_landmarks.tracking import regions_from_dict
from napari_face_landmarks.training import __main__ as training
from napari_face_landmarks.video import write_video
from openface_files import write_folder
from readme_tables import PACKAGE, ROOT, SLOPES_FILE, TABLES, section, slopes
from test_evaluation import arrays_of

LARGEST_README = 12_288
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    ROOT / "tests" / "README.md",
    *sorted(PACKAGE.glob("*/README.md")),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROGRAM = "napari-face-landmarks"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """A folder with every file that the commands name, and the environment of the test."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the commands read: clips, landmarks, labelled faces, OpenFace's models."""
    folder = tmp_path_factory.mktemp("docs")
    frames, _ = make_demo_clip(8, 240)
    for name in ("talk.mp4", "face.mp4", "recordings/one.mp4", "recordings/more/two.mp4", "day1/three.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, frames, fps=25)
    write_video(folder / "interview.mp4", make_demo_clip(60, 240)[0], fps=25)
    models = load_models()
    FaceTracker(models, "fast").track(folder / "talk.mp4").save(folder / "talk.csv")
    tracker = FaceTracker(models, TrackerSettings(refine="off"))
    labels = np.concatenate([tracker.fit(frame).landmarks for frame in frames[:2]])
    for name in ("helen_train", "lfpw_train"):  # the name m.png is held out
        np.savez(folder / f"{name}.npz", **arrays_of(list(frames[:2]), labels, ("m.png", "c.png")))
    (folder / "FOLDER").mkdir()
    write_folder(folder / "shared" / "2.2.0", models.pdm, kinds=("ccnf",))
    return folder


@pytest.fixture
def place(files: Path, monkeypatch: pytest.MonkeyPatch, jobs_here: None) -> Place:
    monkeypatch.chdir(files)
    monkeypatch.setenv("OPENFACE_MODELS_DIR", str(files / "shared"))
    return Place(files, monkeypatch)


def run_cli(place: Place, words: list[str]) -> None:
    if words[0] == "demo" or (words[0] == "benchmark" and "--race" not in words):
        make_parser().parse_args(words)  # test_demo and test_benchmark run them
        return
    if words[0] == "benchmark":
        words = [*words, "--quick", "--rounds", "1"]
        place.monkeypatch.setattr(race, "OURS", {"ours, defaults": {}})  # each way is a process a round
    if words[0] == "batch":
        words = [*words, "--jobs", "1"]
    if "--help" in words:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
        return
    if "--scheduler" not in words:
        assert cli.main(words) == 0
        return
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        words[words.index("--scheduler") + 1] = cluster.scheduler_address
        assert cli.main(words) == 0


def run_training(place: Place, words: list[str]) -> None:
    """Pass the options through the parser; the steps themselves are run by the tests of the training."""
    asked: list[Any] = []

    def train_all(*given: Any) -> int:
        asked.extend(given)
        return 0

    place.monkeypatch.setattr(training, "train_all", train_all)
    if words[0] != "all":
        step = training._module(words[0])
        place.monkeypatch.setattr(step, "run", lambda args: asked.append(args.data))
    assert training.main(words) == 0
    assert asked[0] == Path("FOLDER")


COLLECT = """
import json, sys, pytest
answers = {}
for text, words in json.loads(sys.argv[1]).items():
    answers[text] = int(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *words]))
print(json.dumps(answers), file=sys.stderr)
"""


@cache
def collected() -> dict[str, int]:
    """Have pytest accept the options of all its commands and collect, in one process; return the statuses.

    Where a command names no file, one file is collected.
    """
    given = {}
    for parameter in commands():
        words = shlex.split(parameter.values[0])
        if "pytest" in words:
            words = words[words.index("pytest") + 1 :]
            named = any((ROOT / word).exists() for word in words)
            given[shlex.join(words)] = words if named else [*words, "tests/test_api.py"]
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, json.dumps(given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    answers: dict[str, int] = json.loads(done.stderr.splitlines()[-1])
    return answers


def run_pytest(place: Place, words: list[str]) -> None:
    assert collected()[shlex.join(words)] == 0


def run_python(place: Place, words: list[str]) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def in_ci(place: Place, words: list[str]) -> None:
    """Look a command up in `.ci/run`, which runs it on every change."""
    assert shlex.join(words) in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def install(place: Place, words: list[str]) -> None:
    """Check the extras of a `pip install`; `.ci/run` installs them."""
    extras = set(re.findall(r"\[([\w,]+)\]", " ".join(words)))
    assert {name for group in extras for name in group.split(",")} <= set(
        PROJECT["project"]["optional-dependencies"]
    )


def install_hooks(place: Place, words: list[str]) -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["id"] for repo in config["repos"] for hook in repo["hooks"]]
    assert hooks == ["ruff-check", "ruff-format"]


def no_more(place: Place, words: list[str]) -> None:
    """Accept a command that `.ci/run` runs before anything else."""


RUNNERS: list[tuple[str, Callable[[Place, list[str]], None]]] = [
    (f"{PROGRAM} ", run_cli),
    ("python -m napari_face_landmarks.training ", run_training),
    ("python -m pytest", run_pytest),
    ("pytest ", run_pytest),
    ("python -c ", run_python),
    ("ruff ", in_ci),
    ("mypy", in_ci),
    ("pip install ", install),
    ("pre-commit install", install_hooks),
    ("python3 -m venv ", no_more),
]
"""How a command of the READMEs is run here: the first whose beginning fits."""
SLOW = ("batch", "benchmark", "evaluate", "demo", "pytest", "openface")


def commands() -> list[Any]:
    found = {}
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.strip().splitlines():
                for command in line.split(" && "):
                    found.setdefault(command.strip().removeprefix(".venv/bin/"), name_of(page))
    return [
        pytest.param(
            command,
            id=f"{page}: {command[:60]}",
            marks=[pytest.mark.slow] if any(word in command.split() for word in SLOW) else [],
        )
        for command, page in found.items()
    ]


@pytest.mark.parametrize("command", commands())
def test_every_command_runs(command: str, place: Place) -> None:
    for beginning, run in RUNNERS:
        if command.startswith(beginning):
            words = shlex.split(command)
            skipped = 0 if run in (in_ci, install, install_hooks, no_more) else len(beginning.split())
            run(place, words[skipped:] if run is not run_python else words[1:])
            return
    pytest.fail("No runner for this command: add one.")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: name_of(page)
)
def test_every_script_runs(page: Path, place: Place) -> None:
    names: dict[str, Any] = {}
    for script in blocks(page, "python"):
        exec(compile(script, name_of(page), "exec"), names)
    assert isinstance(names["tracks"], Tracks)
    assert names["tracks"].present.all()
    if page == README:
        np.testing.assert_array_equal(names["loaded"].landmarks, names["tracks"].landmarks)
        assert len(names["points"].data) == 8 * 68
        assert Tracks.load("face.tidy.csv").n_frames == 8


def test_every_json_is_valid() -> None:
    checks = {"look": regions_from_dict, "refine": settings_from_dict, "file": dict}
    for page in PAGES:
        for text in blocks(page, "json"):
            values = json.loads(text)
            checks[next(iter(values))](values)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else (page.parent / path).resolve()
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_slopes_of_measures_are_those_of_the_table() -> None:
    assert SLOPES_FILE.read_text(encoding="utf-8") == slopes(), "run: python tests/readme_tables.py"


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_current(table: str) -> None:
    path, make = TABLES[table]
    if table == "shortcuts":
        pytest.importorskip("qtpy")
    current = section(path.read_text(encoding="utf-8"), table).group(1).strip()
    assert current == make().strip(), "run: python tests/readme_tables.py"


def test_measured_tables_have_their_markers() -> None:
    for package, table in (("evaluation", "accuracy table"), ("benchmark", "speed table")):
        text = (PACKAGE / package / "README.md").read_text(encoding="utf-8")
        assert "| --- |" in section(text, table).group(1) or "|---|" in section(text, table).group(1)


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    assert len(README.read_bytes()) <= LARGEST_README
    first, second = (block.strip() for block in blocks(README, "bash")[:2])
    assert "\n" not in first + second
    assert first.endswith(f"{PROGRAM} demo")
    assert '".[gui]"' in first
    assert "pytest" in second
    assert ".[test" in second


def test_every_bundle_and_package_is_named() -> None:
    readme = README.read_text(encoding="utf-8")
    assert all(re.search(rf"^\| `{name}`", readme, re.MULTILINE) for name in list_models())
    contributing = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for package in PACKAGE.glob("*/__init__.py"):
        assert f"`{package.parent.name}`" in contributing, package.parent.name


def test_every_option_exists() -> None:
    """Options in running text are those of the command line, of the training or of tests and tools."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    known = {"--collect-only", "--check", *re.findall(r"^  (--[a-z]+)\)", ci, re.MULTILINE)}
    for parser in (make_parser(), training.make_parser("pdm")):
        for action in parser._actions:
            for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
                known |= {option for item in sub._actions for option in item.option_strings}
    for page in PAGES[2:] + [README]:
        text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"))
        for option in re.findall(r"(?<![\w|-])--[a-z][a-z-]+", text):
            assert option in known, (name_of(page), option)


def test_functions_are_there_and_documented() -> None:
    page = PACKAGE / "napari_plugin" / "README.md"
    rows = section(page.read_text(encoding="utf-8"), "functions").group(1).strip().splitlines()[2:]
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 20
    for name in names:
        found: Any = napari_face_landmarks
        for part in name.split("."):
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
        assert callable(found), name
        assert found.__doc__, name


def test_the_citation_is_complete_and_of_the_latest_release() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "date-released"} <= set(citation)
    for work in (citation, *citation["references"]):
        assert all("name" in author or "family-names" in author for author in work["authors"])
        assert work["title"]
    latest = re.search(
        r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert latest is not None
    assert latest.groups() == (citation["version"], citation["date-released"])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no bash")
def test_ci_reads_the_two_commands() -> None:
    """`.ci/run` takes the first two bash blocks with this awk program."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    program = re.search(r"awk '([^']*bash[^']*)'", script)
    assert program is not None
    done = subprocess.run(
        ["awk", program.group(1), str(README)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[0] == blocks(README, "bash")[0].strip()
