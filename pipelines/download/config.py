"""Options of `download`. Options shared with img2dataset keep name and meaning; defaults are for LLaVA training."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.engine.choosing import ChosenRows
from pipelines.engine.retry import RetryPolicy
from pipelines.engine.step import Runtime

Interpolation = Literal["nearest", "linear", "cubic", "area", "lanczos"]
HashKind = Literal["md5", "sha256", "sha512"]

HEADER_DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex", "noml")
"""X-Robots-Tag directives that keep an image out: img2dataset's four, and `noml`."""


class DownloadConfig(ChosenRows):
    """What is kept decides the output; how it is fetched (marked Runtime) does not recompute anything."""

    engine: Literal["native", "img2dataset"] = "native"
    """img2dataset: use its own Downloader (extra [img2dataset]), which ignores robots.txt and has no byte limit."""

    # What is kept.
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "keep_ratio_largest"
    """How images are resized; border pads with white."""
    image_size: int = Field(default=1024, ge=1)
    """Pixels: the longest side (keep_ratio_largest, border), the shortest (keep_ratio), both (center_crop)."""
    resize_only_if_bigger: bool = True
    """Never enlarge."""
    upscale_interpolation: Interpolation = "lanczos"
    """Interpolation for enlarging."""
    downscale_interpolation: Interpolation = "area"
    """Interpolation for shrinking."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """Format for images whose original bytes are not kept."""
    encode_quality: int = Field(default=95, ge=0, le=100)
    """jpg and webp: 0 to 100. png: the compression level, 0 to 9."""
    skip_reencode: bool = True
    """Keep the bytes as received when no pixel needs to change and they are at most `max_kept_bytes`."""
    max_kept_bytes: int = Field(default=2**20, ge=0)
    """Larger images are re-encoded."""

    # What is refused.
    min_image_size: int = Field(default=0, ge=0)
    """Shortest side in pixels."""
    max_image_area: int = Field(default=2**25, ge=1, le=89_478_485)
    """Maximum pixels, read from the header before decoding; also applies after resizing. At most Pillow's limit."""
    max_aspect_ratio: float = Field(default=math.inf, ge=1)
    """Longest side over shortest."""
    max_bytes: int = Field(default=20 * 2**20, ge=1)
    """Maximum size of a response body, as sent and after content decoding."""
    max_redirects: int = Field(default=5, ge=0)
    """Maximum number of redirects; each target is checked like any URL."""
    compute_hash: HashKind = "sha256"
    """sha256 of the received bytes is always a column; another kind adds a column with its name."""
    verify_hash: tuple[str, HashKind] | None = None
    """[column, kind], as [md5_of_list, md5]: refuse bytes whose hash is not the hex text in that column."""

    # Opting out.
    user_agent_token: str = Field(default="lavabeam", pattern=r"^[A-Za-z0-9_-]+$")
    """Product token in User-Agent, matched against robots.txt and X-Robots-Tag."""
    disallowed_header_directives: tuple[str, ...] = HEADER_DIRECTIVES
    """X-Robots-Tag directives that exclude an image."""
    respect_tdm: bool = True
    """Exclude images with the header TDM-Reservation: 1."""
    respect_robots_txt: bool = True
    """Fetch and obey each host's robots.txt."""

    # The guard.
    allow_private_hosts: tuple[str, ...] = ()
    """Host names, addresses or networks (10.0.0.0/8), each with an optional :port, that may be private."""

    # How it is fetched.
    thread_count: Annotated[int, Runtime()] = Field(default=64, ge=1)
    """Concurrent downloads per worker process (on one event loop; the name is img2dataset's)."""
    timeout: Annotated[float, Runtime()] = Field(default=10, gt=0)
    """Seconds to connect, and between two received bytes."""
    deadline: Annotated[float, Runtime()] = Field(default=60, gt=0)
    """Seconds for one attempt in total, from the first redirect to the last byte."""
    retries: Annotated[int, Runtime()] = Field(default=2, ge=0)
    """Retries after transient failures."""
    retry_wait: Annotated[float, Runtime()] = Field(default=1, ge=0)
    """Maximum seconds before the first retry, doubled for each further one; the wait is a random share of it."""
    retry_wait_cap: Annotated[float, Runtime()] = Field(default=30, ge=0)
    """Upper limit in seconds of these waits; a Retry-After is honoured up to two minutes."""
    host_limit: Annotated[int, Runtime()] = Field(default=8, ge=1)
    """Concurrent downloads from one host, over all workers."""
    host_delay: Annotated[float, Runtime()] = Field(default=0, ge=0)
    """Minimum seconds between two download starts from one host, over all workers."""
    decode_threads: Annotated[int, Runtime()] = Field(default=2, ge=1)
    """Threads per worker process that verify and encode images."""
    memory: Annotated[int, Runtime()] = Field(default=128 * 2**20, ge=1)
    """Maximum bytes of response bodies that a worker process holds in memory."""
    ca_file: Annotated[str | None, Runtime()] = None
    """PEM file with additional certificate authorities to trust."""

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(attempts=self.retries + 1, base_s=self.retry_wait, cap_s=self.retry_wait_cap)

    @property
    def user_agent(self) -> str:
        return f"Mozilla/5.0 (compatible; {self.user_agent_token}/1.0)"

    @model_validator(mode="after")
    def _png_level(self) -> DownloadConfig:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(f"encode_quality of png is its compression level, 0 to 9, found {self.encode_quality}")
        return self
