"""Print one constraint for each dependency of pyproject.toml: the lowest version that it allows."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = ("gui", "test")


def lowest_versions(pyproject: Path) -> dict[str, str]:
    """Return the lower bounds of the dependencies and of `EXTRAS`, with the extras that these include."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    required, extras = list(project["dependencies"]), list(EXTRAS)
    for extra in extras:  # grows
        required += project["optional-dependencies"][extra]
        for text in project["optional-dependencies"][extra]:
            included = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", text)
            extras += included[1].split(",") if included else []
    bounds: dict[str, str] = {}
    for text in required:
        name = re.match(r"[\w.-]+", text)
        bound = re.search(r">=\s*([\w.]+)", text)
        if name is None or (bound is None and name[0] != project["name"]):
            raise SystemExit(f"{pyproject}: {text!r} has no lower bound (NAME>=VERSION).")
        if bound is not None and bounds.setdefault(name[0], bound[1]) != bound[1]:
            raise SystemExit(f"{pyproject}: {name[0]} has two lower bounds.")
    return bounds


if __name__ == "__main__":
    for package, version in lowest_versions(Path(sys.argv[1])).items():
        print(f"{package}=={version}")
