"""Serves a model over HTTP until the process is told to stop: the container's contract, and OpenAI's.

    GET  /                      a page to try the model
    GET  /ping                  200 once the model is loaded and has answered, else 503
    POST /invocations           {"messages": […]} or {"prompt": "…"} or {"inputs": "…" | […]}
    POST /v1/chat/completions   as OpenAI defines it, streamed or whole
    GET  /v1/models             the one model

The address is taken before the model is loaded, so that a port in use is known before the wait. When the
model answers, `[ready] url=…` is printed. SIGTERM and Ctrl-C end the process within two seconds with
status 0: what is being generated then is refused with 503, which clients take for *try again*.

    python -m tasks.trainer serve --job job.json
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

from . import events, model
from .errors import ConfigError
from .job import DecodeSpec, Job
from .server import Server
from .service import Service

_LAST_REPLIES_SECONDS = 1.5
_LOOK_SECONDS = 0.1


def run(job: Job) -> NoReturn:
    """Serve the tuned model of a job, or its base model, until a signal comes.

    Raises:
        ConfigError: The address is taken, or the model cannot be loaded.
    """
    name = job.name or Path(job.tuned or job.base).name
    service = Service(name, job.decode or DecodeSpec())
    happened: SimpleQueue[Future[None] | None] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: happened.put(None))  # put is safe in a signal handler
    with listen(job.host, job.port, service) as server:
        threading.Thread(target=server.serve_forever, args=(_LOOK_SECONDS,), daemon=True).start()
        try:
            loading = ThreadPoolExecutor(1).submit(lambda: service.open(model.load(job)))
            loading.add_done_callback(happened.put)
            if loaded := happened.get():
                loaded.result()
                events.ready(server.url)
                happened.get()
            service.close()
            server.rests(_LAST_REPLIES_SECONDS)
        finally:
            server.shutdown()
    _leave()


def listen(host: str, port: int, service: Service) -> Server:
    """Take the address.

    Raises:
        ConfigError: It is taken, or not one of this machine.
    """
    try:
        return Server(host, port, service)
    except OSError as error:
        where = f"serving.port: cannot listen on {host}, port {port}"
        raise ConfigError(f"{where} ({error.strerror}). Choose another, or port 0.") from error


def _leave() -> NoReturn:
    """End now. The interpreter's own way out took 3.4 s with torch loaded, on two busy cores.

    It would also abort while another thread, which still loads or generates, is inside torch.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
