"""Model names and the workers behind them. A replaced model keeps serving until the new one is ready."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Hashable
from dataclasses import dataclass, replace
from typing import Any

from lavabeam.serving.backends import backend
from lavabeam.serving.errors import RequestError
from lavabeam.serving.host import Host
from lavabeam.serving.settings import ModelSpec, ServeSettings
from lavabeam.serving.worker import Description, Piece, Question


@dataclass
class Model:
    """A name. `label`: what its worker calls it, so that two of one name can run while one replaces the other."""

    spec: ModelSpec
    label: str
    host: Host
    created: int

    @property
    def about(self) -> Description | None:
        return self.host.about.get(self.label)

    def ask(self, question: Question) -> AsyncGenerator[Piece, None]:
        return self.host.ask(self.label, replace(question, model=self.label))

    def listed(self) -> dict[str, Any]:
        """As an entry of /v1/models (OpenAI API reference, "The model object"), with what we know besides."""
        about = self.about
        return {
            "id": self.spec.name,
            "object": "model",
            "created": self.created,
            "owned_by": "lavabeam",
            "family": about.family if about else None,
            "precision": about.precision if about else None,
            "positions": about.positions if about else None,
            "state": self.host.state,
            "detail": self.host.detail or None,
        }


class Registry:
    """All names. `add` and `remove` may be called while questions run."""

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self._models: dict[str, Model] = {}
        self._numbers = itertools.count(1)
        self._locks: dict[str, asyncio.Lock] = {}

    def names(self) -> list[str]:
        return list(self._models)

    def models(self) -> list[Model]:
        return list(self._models.values())

    def get(self, name: str) -> Model:
        """Raises RequestError, 404, with the names that there are."""
        if name not in self._models:
            known = ", ".join(self._models) or "none yet"
            raise RequestError(
                404, f"there is no model {name!r}. Models: {known}.", code="model_not_found", param="model"
            )
        return self._models[name]

    async def open(self, specs: list[ModelSpec]) -> None:
        """Start workers for `specs`, those of a group in one. Raises InputError for the first that cannot serve; then
        all are stopped."""
        hosts: dict[Hashable, Host] = {}
        for spec in specs:
            key, label = backend(spec).group(spec), self._labelled(spec)
            place = object() if key is None else (key, spec.device)
            if place in hosts:
                hosts[place].specs[label.name] = label
            else:
                hosts[place] = Host(key, [label], self.settings)
            self._models[spec.name] = Model(spec, label.name, hosts[place], int(time.time()))
        try:
            async with asyncio.TaskGroup() as tasks:
                for host in hosts.values():
                    tasks.create_task(host.start())
        except ExceptionGroup as group:
            await self.close()
            raise group.exceptions[0] from None

    async def add(self, spec: ModelSpec) -> Model:
        """Add a name, or replace what is behind it. Raises InputError, and then nothing has changed."""
        kind = backend(spec)
        await asyncio.to_thread(kind.check, spec)
        async with self._locks.setdefault(spec.name, asyncio.Lock()):
            key, label = await asyncio.to_thread(kind.group, spec), self._labelled(spec)
            host = self._shared(key, spec.device)
            if host is not None:
                await host.attach(label)
            else:
                host = Host(key, [label], self.settings)
                await host.start()
            before = self._models.get(spec.name)
            model = self._models[spec.name] = Model(spec, label.name, host, int(time.time()))
        if before is not None:
            await before.host.detach(before.label)
        return model  # it may have been removed meanwhile

    async def remove(self, name: str) -> None:
        """Raises RequestError, 404. New questions are refused at once, running answers end."""
        model = self.get(name)
        del self._models[name]
        await model.host.detach(model.label)

    async def close(self) -> None:
        """Stop all workers."""
        hosts = {id(model.host): model.host for model in self._models.values()}
        self._models = {}
        await asyncio.gather(*(host.stop() for host in hosts.values()))

    def _labelled(self, spec: ModelSpec) -> ModelSpec:
        return spec.model_copy(update={"name": f"{spec.name}.{next(self._numbers)}"})

    def _shared(self, key: Hashable | None, device: str | None) -> Host | None:
        """A running worker of the group, on `device` where one is given."""
        for model in self._models.values():
            host = model.host
            if key is not None and host.key == key and host.state == "ready" and device in (None, host.device):
                return host
        return None
