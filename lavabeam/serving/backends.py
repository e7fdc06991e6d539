"""The worker backends by name. To add one, extend BACKENDS."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from lavabeam.serving.settings import ModelSpec, ServeSettings
from lavabeam.serving.worker import Worker
from schemas.config import nearest
from schemas.errors import InputError


@dataclass(frozen=True)
class Backend:
    """check: raises InputError, in one line, for what is wrong with a spec, without starting anything. make: a worker
    that is not started yet. group: equal for specs that one worker serves together, None for one that it has alone."""

    check: Callable[[ModelSpec], None]
    make: Callable[[ModelSpec, ServeSettings], Worker]
    group: Callable[[ModelSpec], Hashable | None] = lambda spec: None


def backend(spec: ModelSpec) -> Backend:
    """The backend of a spec; raises InputError naming the nearest one."""
    if spec.backend not in BACKENDS:
        raise InputError(f"{spec.name}: there is no backend {spec.backend!r}. {nearest(spec.backend, list(BACKENDS))}")
    return BACKENDS[spec.backend]


def _check(spec: ModelSpec) -> None:
    from lavabeam.serving.embedded import check

    check(spec)


def _make(spec: ModelSpec, settings: ServeSettings) -> Worker:
    from lavabeam.serving.embedded import EmbeddedWorker

    return EmbeddedWorker(spec, settings)


def _group(spec: ModelSpec) -> Hashable | None:
    from lavabeam.serving.embedded import group

    return group(spec)


def _check_remote(spec: ModelSpec) -> None:
    from lavabeam.serving.remote import check

    check(spec)


def _make_remote(spec: ModelSpec, settings: ServeSettings) -> Worker:
    from lavabeam.serving.remote import RemoteWorker

    return RemoteWorker(spec)


def _check_launched(spec: ModelSpec) -> None:
    from lavabeam.serving.launched import check

    check(spec)


def _make_launched(spec: ModelSpec, settings: ServeSettings) -> Worker:
    from lavabeam.serving.launched import LaunchedWorker

    return LaunchedWorker(spec, settings)


def _group_launched(spec: ModelSpec) -> Hashable | None:
    from lavabeam.serving.launched import group

    return group(spec)


_LAUNCHED = Backend(_check_launched, _make_launched, _group_launched)
BACKENDS: dict[str, Backend] = {
    "embedded": Backend(_check, _make, _group),
    "remote": Backend(_check_remote, _make_remote),
    "vllm": _LAUNCHED,
    "sglang": _LAUNCHED,
}
