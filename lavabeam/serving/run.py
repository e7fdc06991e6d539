"""`lavabeam serve`: validate everything, bind the port, start the workers, then print the address."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lavabeam.serving.page.process import KeptPage
from lavabeam.serving.page.process import check as check_page
from lavabeam.serving.page.settings import PageSettings
from lavabeam.serving.settings import ModelSpec, ServeSettings
from schemas.errors import InputError

NEEDED = ("fastapi", "prometheus_client", "uvicorn")


def serve(
    settings: ServeSettings, specs: list[ModelSpec], say: Callable[[str], None], page: PageSettings | None = None
) -> None:
    """Serve `specs` until SIGINT or SIGTERM. `say` gets the address and two examples once every name can be asked, and
    then the address of the page, if there is to be one.

    Raises InputError, before anything is loaded, for a package that is missing, a port that is taken, and a checkpoint
    that its backend refuses; later for one whose worker cannot start.
    """
    check_installed()
    from lavabeam.serving.backends import backend

    for spec in specs:
        backend(spec).check(spec)
    if page is not None:
        check_page(page)
    with _listening(settings.host, settings.port) as sock:
        port = int(sock.getsockname()[1])
        token = secrets.token_urlsafe(24)
        file = token_file(port)
        _write_private(file, token)
        try:
            _run(settings, specs, sock, token, _Welcome(settings, specs, port, file, say, page))
        finally:
            file.unlink(missing_ok=True)


def check_installed() -> None:
    """Raises InputError that names the extra."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"serve needs {missing[0]}, which is not installed: pip install 'lavabeam[serve]'.")


def token_file(port: int) -> Path:
    """Where the token of the server at `port` is, readable by its owner alone, while it runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lavabeam" / f"serve-{port}.token"


def _run(settings: ServeSettings, specs: list[ModelSpec], sock: socket.socket, token: str, welcome: _Welcome) -> None:
    import uvicorn

    from lavabeam.serving.gateway import create_app
    from lavabeam.serving.limits import impatient
    from lavabeam.serving.registry import Registry

    registry = Registry(settings)
    config = uvicorn.Config(
        create_app(settings, registry, token),
        http=impatient(settings),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.stop_seconds) or 1,
    )

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        try:
            runner.run(_until_stopped(uvicorn.Server(config), sock, registry.open(specs), welcome))
        finally:
            runner.run(registry.close())


async def _until_stopped(
    server: Any, sock: socket.socket, opening: Coroutine[Any, Any, None], welcome: _Welcome
) -> None:
    """Listen while workers start, so that who asks waits; then until a signal comes. Raises what `opening` raises."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server.capture_signals = nullcontext  # uvicorn raises them again at its end, before workers are stopped
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    started, signalled = asyncio.create_task(opening), asyncio.create_task(stopped.wait())
    tasks = [started, signalled, serving]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            await asyncio.to_thread(welcome.ready)
            tasks.append(asyncio.create_task(asyncio.to_thread(welcome.keep_page)))
            await asyncio.wait({signalled, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await asyncio.to_thread(welcome.end)
        started.cancel()
        signalled.cancel()
        server.should_exit = True
        await asyncio.gather(*tasks, return_exceptions=True)


def _listening(host: str, port: int) -> socket.socket:
    """A bound socket; raises InputError for an address that cannot be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise InputError(
            f"host: {host!r} is not an address of this machine ({error}). Give one such as 127.0.0.1."
        ) from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise InputError(
            f"port: {host}:{port} cannot be bound ({error.strerror}). Choose another one with --port."
        ) from error
    return sock


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)


class _Welcome:
    """What happens when every name can be asked: the address is said, and the page started, if there is to be one."""

    def __init__(
        self,
        settings: ServeSettings,
        specs: list[ModelSpec],
        port: int,
        file: Path,
        say: Callable[[str], None],
        page: PageSettings | None,
    ):
        self._settings, self._specs, self._port, self._file, self._say = settings, specs, port, file, say
        self._wanted = page
        self._page: KeptPage | None = None

    def ready(self) -> None:
        """Raises InputError for a page that does not start."""
        self._say(_welcome(self._settings, self._specs, self._port, self._file))
        if not self._settings.api_keys and not _is_loopback(self._settings.host):
            self._say(f"Anyone who can reach {self._settings.host} can send requests: --api-keys FILE requires a key.")
        if self._wanted is not None:
            key = self._settings.api_keys[0] if self._settings.api_keys else None
            gateway = _address(self._settings, self._port).removesuffix("/v1")
            self._page = KeptPage(self._wanted.model_copy(update={"gateway": gateway}), key, self._say)

    def keep_page(self) -> None:
        """Returns when there is no page, or none any more."""
        if self._page is not None:
            self._page.keep()

    def end(self) -> None:
        if self._page is not None:
            self._page.stop()


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ((host[:1].isdigit() or ":" in host) and ipaddress.ip_address(host).is_loopback)


def _address(settings: ServeSettings, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{host}:{port}/v1"


def _welcome(settings: ServeSettings, specs: list[ModelSpec], port: int, file: Path) -> str:
    address, name = _address(settings, port), specs[0].name if specs else "NAME"
    names = ", ".join(spec.name for spec in specs) or "nothing yet: lavabeam serve add NAME=CHECKPOINT"
    key = "-H 'Authorization: Bearer KEY' " if settings.api_keys else ""
    question = '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://..."}}, '
    question += '{"type": "text", "text": "What is this?"}]}]'
    body = f'{{"model": "{name}", "messages": {question}}}'
    return "\n".join(
        (
            f"{address} serves {names} (token for add and remove: {file})",
            f"curl {address}/chat/completions {key}-H 'Content-Type: application/json' -d '{body}'",
            f'openai.OpenAI(base_url="{address}", api_key="{"KEY" if key else "none"}").chat.completions.create('
            f'model="{name}", messages={question}).choices[0].message.content',
        )
    )
