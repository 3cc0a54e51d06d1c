"""The generated tables of the READMEs; ``python tests/readme_tables.py`` updates them.

Each table is enclosed by ``<!-- NAME: ... -->`` and ``<!-- end of NAME -->``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "napari_face_landmarks"
SLOPES_FILE = PACKAGE / "measures" / "slopes.json"


def section(text: str, name: str) -> re.Match[str]:
    """Find a table by its markers; group 1 is the text between them."""
    found = re.search(rf"<!-- {name}\b[^>]*-->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
    if found is None:
        raise ValueError(f"The markers of the table {name!r} are missing.")
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings() -> str:
    from napari_face_landmarks.settings import REFINE_MODES, TrackerSettings

    rows = []
    for item in dataclasses.fields(TrackerSettings):
        values = ", ".join(REFINE_MODES)
        if item.name != "refine":
            values = f"{item.metadata['low']:g} to {item.metadata['high']:g}"
        rows.append([f"`{item.name}`", str(item.default), values, item.metadata["help"]])
    return markdown(["setting", "default", "values", "description"], rows)


def presets() -> str:
    from napari_face_landmarks.settings import PRESETS, TrackerSettings

    rows, default = [], TrackerSettings().to_dict()
    for preset in PRESETS:
        changed = {name: now for name, now in preset.settings.to_dict().items() if now != default[name]}
        text = ", ".join(f"`{name}={now}`" for name, now in changed.items()) or "the defaults"
        rows.append([f"{preset.title}, `{preset.name}`", text, preset.help])
    return markdown(["preset", "settings", "purpose and cost"], rows)


def formats() -> str:
    from napari_face_landmarks.io import FORMATS

    rows = []
    for item in FORMATS:
        suffixes = ", ".join(f"`{suffix}`" for suffix in item.suffixes)
        rows.append(
            [f"{item.title}, `{item.name}`", suffixes, item.loses, item.read_by, ", ".join(item.needs)]
        )
    return markdown(["format", "files", "not kept", "also read by", "needs"], rows)


def reasons() -> str:
    from napari_face_landmarks.quality import REASONS, Limits

    limits = Limits()
    rules = {
        "lost face": "a face that was tracked is not found",
        "low confidence": f"the mean confidence of its landmarks is below {limits.low_confidence:g}",
        "jump": f"its landmarks move by {100 * limits.jump:g} % of the inter-ocular distance or more in one "
        f"frame, and {limits.jump_ratio:g} times as far as in the frames around it",
        "PFLD and CLNF disagree": f"CLNF moved the landmarks by {100 * limits.disagreement:g} % of the "
        "inter-ocular distance or more",
        "unlike a face": f"the landmarks are {100 * limits.off_model:g} % of the inter-ocular distance or "
        "more from the nearest shape of the PDM",
        "low confidence of a region": "the mean confidence of the jaw, a brow, the nose, an eye or the lips "
        f"is below {limits.region_confidence:g}",
        "jump of a region": "one of these regions moves as far as in a jump, relative to the face",
        "left unlike right": "on this frame only, one eye or brow differs from the other by as much as in a "
        "jump",
    }
    return markdown(["reason", "a frame is listed if"], [[reason, rules[reason]] for reason in REASONS])


def limits() -> str:
    from napari_face_landmarks.quality import Limits

    rows = [
        [f"`--{item.name.replace('_', '-')}`", f"{item.default:g}", item.metadata["help"]]
        for item in dataclasses.fields(Limits)
    ]
    return markdown(["option", "default", "description"], rows)


def shortcuts() -> str:
    from napari_face_landmarks.napari_plugin.commands import SHORTCUTS

    actions = {
        "run": "start tracking",
        "pause": "pause and resume",
        "cancel": "cancel and keep the finished frames",
        "export": "export",
        "next_preset": "select the next preset",
    }
    rows = [[key.replace("-", "+"), actions[name]] for name, key in SHORTCUTS.items()]
    return markdown(["keys", "action"], [*rows, ["N, Shift+N", "next and previous frame to check"]])


def model_cards() -> str:
    from napari_face_landmarks.models import list_models, load_card
    from napari_face_landmarks.models.card import card_markdown

    return "\n".join(card_markdown(load_card(name)) for name in list_models())


def accuracy_summary() -> str:
    from napari_face_landmarks.models import list_models, load_card
    from napari_face_landmarks.models.card import EVALUATED_BOXES

    conditions = {"none": "unmodified", "marks": "pen marks", "occlusion": "occluded"}
    rows = []
    for name in list_models():
        measured = load_card(name)["metrics"]["evaluation"][EVALUATED_BOXES]
        for mode, title in (("off", "PFLD"), ("always", "PFLD + CLNF")):
            errors = [f"{100 * measured[condition][mode]['mean']:.2f} %" for condition in conditions]
            rows.append([f"`{name}`, {title}", *errors])
    return markdown(["bundle, method", *conditions.values()], rows)


def speed_summary() -> str:
    text = (PACKAGE / "benchmark" / "README.md").read_text(encoding="utf-8")
    runs = re.search(
        r"^cap640\.mp4, .*?\n\n(.*?)\n\n", section(text, "speed table").group(1), re.DOTALL | re.M
    )
    if runs is None:
        raise ValueError("The benchmark's README has no runs over cap640.mp4.")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in runs.group(1).splitlines()[2:]]
    fps = {(refine, every, threads): rate for refine, every, threads, rate, _ in cells}
    wanted = {
        "`fast` (no refinement)": ("off", ""),
        "`balanced` (the defaults)": ("auto", "2"),
        "refinement on every frame": ("always", "1"),
    }
    rows = [[title, *(fps[(*key, threads)] for threads in "12")] for title, key in wanted.items()]
    return markdown(["settings", "1 thread", "2 threads"], rows)


def faults() -> str:
    from test_reliability import FAULTS

    rows = []
    for fault in FAULTS:
        files = dict.fromkeys(test.partition("::")[0] for test in fault.tests)
        links = [f"[{name.removeprefix('test_').removesuffix('.py')}]({name})" for name in files]
        rows.append([fault.what, fault.happens, fault.kept, ", ".join(links)])
    return markdown(["fault", "what happens", "what is kept", "tests"], rows)


def slopes() -> str:
    """Return the content of ``measures/slopes.json``: the slopes in the table of measures by bundle."""
    text = (PACKAGE / "measures" / "README.md").read_text(encoding="utf-8")
    table = section(text, "measures table").group(1)
    found: dict[str, dict[str, float]] = {}
    for line in table.partition("| measure |")[2].partition("\n\n")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[1] == "none" and cells[6][0].isdecimal():
            found.setdefault(cells[3], {})[cells[0]] = float(cells[6])
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "speed summary": (ROOT / "README.md", speed_summary),
    "accuracy summary": (ROOT / "README.md", accuracy_summary),
    "settings": (PACKAGE / "tracking" / "README.md", settings),
    "presets": (PACKAGE / "tracking" / "README.md", presets),
    "formats": (PACKAGE / "io" / "README.md", formats),
    "reasons": (PACKAGE / "quality" / "README.md", reasons),
    "limits": (PACKAGE / "quality" / "README.md", limits),
    "shortcuts": (PACKAGE / "napari_plugin" / "README.md", shortcuts),
    "model cards": (PACKAGE / "models" / "README.md", model_cards),
    "faults": (ROOT / "tests" / "README.md", faults),
}
"""The README of each table, and the function that makes it."""


def main() -> None:
    """Update the tables in the READMEs, and the slopes of measures."""
    SLOPES_FILE.write_text(slopes(), encoding="utf-8")
    for name, (path, make) in TABLES.items():
        text = path.read_text(encoding="utf-8")
        found = section(text, name)
        table = f"\n{make().strip()}\n\n"
        if found.group(1) != table:
            path.write_text(text[: found.start(1)] + table + text[found.end(1) :], encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {name}")


if __name__ == "__main__":
    sys.exit(main())
