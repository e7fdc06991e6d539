"""Fetches a single image by URL with the step's guard, limits and checks, without a dataset."""

from __future__ import annotations

import asyncio

from pipelines.download.client import Client, Picture
from pipelines.download.config import DownloadConfig
from pipelines.download.memory import Line
from pipelines.download.statuses import DownloadStatus, Failure
from pipelines.engine.step import Context
from schemas.errors import InputError

REMEDIES = {
    DownloadStatus.private_address: "To allow a host of your own, name it with --allow-private-hosts.",
    DownloadStatus.bad_url: "Write the full address: https://host/picture.jpg.",
    DownloadStatus.bad_scheme: "Give an http or https address, or the path of a file.",
    DownloadStatus.not_image: "Give the address of the picture itself, not of a page that shows it.",
}


def fetch_picture(
    url: str,
    allow_private_hosts: tuple[str, ...] = (),
    retries: int = 1,
    deadline: float | None = None,
    max_bytes: int | None = None,
) -> bytes:
    """The picture at `url` at its full size, encoded; raises InputError that names the address and why not.

    The guard decides what may be connected to, on every hop. Whether a picture may be collected for training
    (robots.txt and its like) is not asked: it is shown once, to who asked for it, and not kept. deadline, max_bytes: as
    for the step, whose defaults they have.
    """
    usual = DownloadConfig()
    config = DownloadConfig(
        resize_mode="no",
        max_bytes=max_bytes or usual.max_bytes,
        max_kept_bytes=max_bytes or usual.max_bytes,
        deadline=deadline or usual.deadline,
        respect_robots_txt=False,
        respect_tdm=False,
        disallowed_header_directives=(),
        allow_private_hosts=allow_private_hosts,
        retries=retries,
    )
    outcome = asyncio.run(_download(url, config))
    if isinstance(outcome, Failure):
        remedy = REMEDIES.get(outcome.status, "")
        raise InputError(f"{url}: {outcome.status} ({outcome.detail}). {remedy}".rstrip())
    return outcome.kept.data


async def _download(url: str, config: DownloadConfig) -> Picture | Failure:
    client = Client(config, Context(run="single", dataset="none"))
    await client.open()
    try:
        return await client.download("picture", url, None, Line().join())
    finally:
        await client.close()
