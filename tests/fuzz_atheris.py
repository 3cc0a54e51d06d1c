"""Coverage-guided fuzzing of the readers with atheris.

`python tests/fuzz_atheris.py TARGET -runs=10000` needs `pip install atheris`, which has wheels for Linux.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["napari_face_landmarks"]):
    import fuzzing


def main() -> None:
    """Fuzz the reader named by the first argument; the other arguments are passed to libFuzzer."""
    target = fuzzing.TARGETS[sys.argv.pop(1)]
    folder = Path(tempfile.mkdtemp())
    for name in ("seeds", "corpus", "work"):
        (folder / name).mkdir()
    for number, content in enumerate(target.seeds(folder / "seeds")):
        (folder / "corpus" / str(number)).write_bytes(content)

    def read(data: bytes) -> None:
        outcome = fuzzing.try_one(target, data, folder / "work", measured=False)
        if outcome.wrong:
            raise AssertionError(outcome.wrong)

    atheris.Setup([*sys.argv, f"-max_len={fuzzing.SMALL}", str(folder / "corpus")], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
