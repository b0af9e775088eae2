"""Starts ranks as torchrun does, but by fork from one process that has imported everything: a start of Python costs
seconds. Reads one JSON request a line, answers with one line.

{"world": 2, "folder": DIR, "ask": RECIPE} or {..., "command": [...]}  ->  {"pids": [...]}; rank N prints to DIR/outN;
in a word of the command, RANK stands for its number
{"wait": [pids]}                                                      ->  {"codes": [...]}, negative for a signal
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from segnl.cli.main import main
from segnl.core.distributed import process_group
from tests.rank_worker import answers


def fork_rank(request: dict[str, Any], rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(request["folder"])
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
        os.environ |= request["environment"] | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        words = [word.replace("RANK", str(rank)) for word in request.get("command", ())]
        code = main(words) if words else answer(Path(request["ask"]), rank)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(config: Path, rank: int) -> int:
    with process_group() as group:
        Path(f"rank{rank}.json").write_text(json.dumps(answers(config, group)))
    return 0


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            reply = {"codes": [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in request["wait"]]}
        else:
            reply = {"pids": [fork_rank(request, rank) for rank in range(request["world"])]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve()
