"""A front in a process of its own: `python front_process.py MODEL_DIR SERVER_PID NAME NUM_REQUESTS MAX_TOKENS`.

Connects (at once), says `ready <engine pid>`, submits its requests at the first line of stdin, prints what came back
as one JSON line, detaches at the next line. A failure to connect is one line `error <class>: <text>`, exit code 3.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from recording_front import Recorder, request

from flover_backend.config import ModelJson
from flover_backend.errors import FloverError
from flover_backend.front.client import EngineClient


def main() -> int:
    model_dir, server_pid, name, num_requests, max_tokens = sys.argv[1:]
    try:
        client = EngineClient.connect(
            ModelJson(),
            Path(model_dir),
            "flover",
            "1",
            int(server_pid),
            name,
            log=lambda line: print(line, file=sys.stderr),
            factory="echo_core:load",
        )
    except FloverError as error:
        print(f"error {type(error).__name__}: {error}", flush=True)
        return 3
    recorder = Recorder()
    client.start(recorder)
    print(f"ready {client.info.pid} {client.info.front_number}", flush=True)
    sys.stdin.readline()
    requests = [
        request(client, [client.info.front_number, number], int(max_tokens)) for number in range(int(num_requests))
    ]
    for each in requests:
        client.submit(each)
    if requests:
        recorder.wait(lambda: recorder.tokens, "first token")
    print("running", flush=True)
    recorder.wait(lambda: recorder.failed or all((each.key, 0) in recorder.finish for each in requests), "all ends")
    answers = [[list(each.prompt_ids), recorder.tokens.get((each.key, 0), [])] for each in requests]
    print(json.dumps({"answers": answers, "failed": recorder.failed, "leader": len(recorder.leader)}), flush=True)
    sys.stdin.readline()
    client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
