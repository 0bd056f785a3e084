"""One of many answering processes: `python -m nsdrive.vla.inference.worker`, started and fed by `workers`.

It reads JSON lines, first what to load (`workers.Work`), then batches of questions, and writes a line for each: their rows.
Whatever a library prints goes to stderr. When its input ends, as when its parent dies, it ends too.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        answers.write(json.dumps(message, ensure_ascii=True, allow_nan=False) + "\n")
        answers.flush()

    try:
        work = json.loads(sys.stdin.readline())
        from nsdrive.questions import Question
        from nsdrive.vla.answering import Tally, answerer

        data = Path(work.pop("dataset"))
        answer = answerer(work.pop("model"), data, **work)
        say(device=answer.driver.device_type)
        for line in sys.stdin:
            questions = [Question.from_row(row) for row in json.loads(line)]
            answer.tally = Tally()
            rows = [prediction.to_row() for prediction in answer(questions)]
            say(rows=rows, tally=asdict(answer.tally))
    except (ValueError, FileNotFoundError) as error:
        say(error=str(error))
        return 1
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.exit(status)
