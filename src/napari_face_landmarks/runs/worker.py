"""A process that does the jobs it is sent, a line of JSON each; it ends when its input does.

Answers go to the standard output, a line of JSON each: ``{"done": 12, "total": 300}`` on the way,
``{"result": {...}}`` at the end of a job.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from typing import IO


def serve() -> IO[bytes]:
    """Return the standard output, from now on for the answers of a process that is sent its work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that sends the jobs
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    return answers


def main() -> int:
    """Do jobs until the input ends."""
    answers = serve()
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    from napari_face_landmarks.runs.job import Job, do_job
    from napari_face_landmarks.video.container import limit_threads

    def answer(content: object) -> None:
        answers.write(json.dumps(content).encode() + b"\n")
        answers.flush()

    while True:
        job = Job(**json.loads(lines.get()))
        limit_threads(job.threads)
        result = do_job(job, lambda done, total: answer({"done": done, "total": total}))
        answer({"result": dataclasses.asdict(result)})


def _listen(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    # the sender is gone or wants no more: a journal survives that at any moment
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
