"""Images of a request: fetched behind the download step's guard, or decoded from a data URL; header checked."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from lavabeam.serving.errors import RequestError
from lavabeam.serving.settings import ServeSettings
from schemas import pictures
from schemas.errors import InputError

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w=.-]+)*;base64,", re.ASCII | re.IGNORECASE)
_INLINE = 1 << 18
"""Characters of an address that are decoded on the event loop: less than a millisecond."""

_FETCHES, _OF_ONE_HOST = 32, 8
"""Pictures that are fetched at a time, and from one host, so that a slow one holds up none but its own."""


class Pictures:
    """Addresses to encoded pictures. A path on this machine, and any other scheme, is refused unread."""

    def __init__(self, settings: ServeSettings):
        self._settings = settings
        self._threads = ThreadPoolExecutor(_FETCHES, "fetch")
        self._places = asyncio.Semaphore(_FETCHES)
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def collect(self, addresses: list[tuple[str, str]]) -> tuple[bytes, ...]:
        """addresses: each with its place in the request. Raises RequestError, 400, for the first that is no picture."""
        most = self._settings.max_images
        if len(addresses) > most:
            raise RequestError(
                400, f"messages: {len(addresses)} pictures, at most {most} are allowed.", code="too_many_images"
            )
        return tuple(await asyncio.gather(*(self._picture(url, place) for url, place in addresses)))

    async def _picture(self, url: str, place: str) -> bytes:
        try:
            if url[:5].lower() == "data:":
                if len(url) <= _INLINE:
                    return self._decoded(url)
                return await asyncio.to_thread(self._decoded, url)
            if url[:7].lower() == "http://" or url[:8].lower() == "https://":
                return await self._fetched(url)
        except InputError as error:
            raise RequestError(400, f"{place}: {error}", code="invalid_image", param=place) from error
        raise RequestError(
            400,
            f"{place}: found {url[:60]!r}; expected an http or https address, or data:image/...;base64,... Files "
            "of the server are not read.",
            code="invalid_image",
            param=place,
        )

    def _decoded(self, url: str) -> bytes:
        head = _DATA.match(url)
        if head is None:
            raise InputError(f"found {url[:40]!r}; expected data:image/...;base64,...")
        most = self._settings.max_image_bytes
        if (len(url) - head.end()) * 3 // 4 > most + 2:
            raise InputError(f"a picture of more than {most} bytes.")
        try:
            data = base64.b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"the data is not base64: {error}.") from error
        return self._checked(data)

    async def _fetched(self, url: str) -> bytes:
        """Runs on a thread, so a slow host costs one of a few threads, for a limited time, and never the event loop."""
        from pipelines.download.single import fetch_picture

        def fetch() -> bytes:
            hosts, seconds = self._settings.allow_private_hosts, self._settings.fetch_seconds
            return fetch_picture(url, hosts, retries=0, deadline=seconds, max_bytes=self._settings.max_image_bytes)

        places = (self._of_host(url), self._places)
        await self._wait_for(places)
        loop, fetching = asyncio.get_running_loop(), self._threads.submit(fetch)

        def give_back() -> None:
            for place in places:
                place.release()

        # Not when the client goes: the thread is still at it.
        fetching.add_done_callback(lambda _: loop.call_soon_threadsafe(give_back))
        return self._checked(await asyncio.wrap_future(fetching))

    def _of_host(self, url: str) -> asyncio.Semaphore:
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            host = ""
        place = self._hosts.get(host)
        if place is None:
            place = self._hosts[host] = asyncio.Semaphore(_OF_ONE_HOST)
        return place

    async def _wait_for(self, places: tuple[asyncio.Semaphore, ...]) -> None:
        """Take a place in each. Raises RequestError, 503, after `fetch_seconds`."""
        taken: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(self._settings.fetch_seconds):
                for place in places:
                    await place.acquire()
                    taken.append(place)
        except BaseException as error:
            for place in taken:
                place.release()
            if isinstance(error, TimeoutError):
                words = "too many pictures of slow hosts are being fetched."
                raise RequestError(503, words, code="too_many_requests", retry_after=5) from None
            raise

    def _checked(self, data: bytes) -> bytes:
        """`data`, if its header is that of a picture which may be decoded. Its pixels are the worker's affair."""
        try:
            header = pictures.read(data)
            pictures.check_cost(header)
        except pictures.PictureError as error:
            raise InputError(f"not a picture that can be used: {error}.") from error
        if header.width * header.height > self._settings.max_image_pixels:
            most = self._settings.max_image_pixels
            raise InputError(f"{header.width}x{header.height} pixels; at most {most} are allowed.")
        return data
