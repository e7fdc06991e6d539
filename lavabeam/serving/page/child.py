"""The page's side of its process (`process.py` starts it).

It says one line of JSON on stdout: the address when it serves, or why it cannot. It ends when its stdin is closed,
which is also how the end of its parent looks, or at SIGTERM, and records what it has before.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from typing import Any

from lavabeam.serving.client import GatewayClient
from lavabeam.serving.page.settings import PageSettings
from schemas.errors import LavaBeamError

UPLOAD_LIMIT = "32mb"
"""Of one picture; the gateway's limit on a whole request comes on top."""


def main(settings_json: str) -> int:
    """Serve until the end; returns the exit code."""
    settings = PageSettings.model_validate_json(settings_json)
    try:
        recorder = _recorder(settings)
        page, address = _serve(settings, recorder)
    except (LavaBeamError, OSError) as error:
        _say(error=str(error))
        return 2
    _say(address=address)
    _wait_for_the_end()
    page.close()
    if recorder is not None:
        recorder.close()
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)  # what was uploaded; also where the parent is gone
    return 0


def _recorder(settings: PageSettings) -> Any:
    """Opened first: a place that cannot be written to is said before anything is served."""
    if settings.record is None:
        return None
    from lavabeam.serving.page.record import Recorder

    return Recorder(settings.record, settings.gateway, settings.allow_private_hosts)


def _serve(settings: PageSettings, recorder: Any) -> tuple[Any, str]:
    """The page, served by threads of this process, and its address."""
    import gradio as gr

    from lavabeam.serving.page.app import STYLE, build
    from lavabeam.serving.page.asking import Asking

    page = build(Asking(GatewayClient(settings.gateway)), recorder)
    _, address, _ = page.launch(
        server_name=settings.host,
        server_port=settings.port or _free_port(settings.host),
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        footer_links=[],
        show_error=True,
        max_file_size=UPLOAD_LIMIT,
        css_paths=STYLE,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # others come from a CDN
    )
    return page, address


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _wait_for_the_end() -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def end_with_stdin() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock a thread that waits would hold at the end
            pass
        ended.set()

    threading.Thread(target=end_with_stdin, daemon=True).start()
    ended.wait()


def _say(**words: str) -> None:
    print(json.dumps(words), flush=True)
