"""Answer the calls that come in at the standard input, with a script's ``answer(call)``, at the standard output.
Started by client_process.py, in a process that sees the standard library and the client's own packages."""

from __future__ import annotations

import os
import pickle
import runpy
import sys


def main(packages: str, script: str) -> None:
    sys.path.insert(0, packages)
    answers = os.fdopen(os.dup(1), "wb")
    # What a client prints is for the log.
    os.dup2(2, 1)
    answer = runpy.run_path(script)["answer"]
    while True:
        try:
            call = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            told = True, answer(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the client told its user
            told = False, described(error)
        pickle.dump(told, answers)
        answers.flush()


def described(error: Exception) -> tuple[str, str, str]:
    status = getattr(error, "status", getattr(error, "code", ""))
    if not status and hasattr(error, "response"):
        status = error.response.status_code
    message = getattr(error, "message", getattr(error, "details", lambda: str(error)))
    status, message = (told() if callable(told) else told for told in (status, message))
    return type(error).__name__, str(status), str(message)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
