"""Options of `download`. An option that img2dataset has keeps its name and meaning; defaults are for LLaVA training."""

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
    """img2dataset: its own Downloader does it (extra [img2dataset]), which asks no robots.txt and has no byte cap."""

    # What is kept.
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "keep_ratio_largest"
    """How a picture gets its size; border pads with white."""
    image_size: int = Field(default=1024, ge=1)
    """Pixels: the longest side (keep_ratio_largest, border), the shortest (keep_ratio), both (center_crop)."""
    resize_only_if_bigger: bool = True
    """Never enlarge."""
    upscale_interpolation: Interpolation = "lanczos"
    """How pixels are computed where a picture is enlarged."""
    downscale_interpolation: Interpolation = "area"
    """How pixels are computed where a picture is shrunk."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """What a picture is encoded as, where its bytes are not kept."""
    encode_quality: int = Field(default=95, ge=0, le=100)
    """jpg and webp: 0 to 100. png: the compression level, 0 to 9."""
    skip_reencode: bool = True
    """Keep the bytes as received when no pixel needs to change and they are at most `max_kept_bytes`."""
    max_kept_bytes: int = Field(default=2**20, ge=0)
    """Larger ones are encoded again."""

    # What is refused.
    min_image_size: int = Field(default=0, ge=0)
    """Shortest side in pixels."""
    max_image_area: int = Field(default=2**25, ge=1, le=89_478_485)
    """Pixels, read from the header before anything is decoded; also of what resizing makes. Pillow's limit at most."""
    max_aspect_ratio: float = Field(default=math.inf, ge=1)
    """Longest side over shortest."""
    max_bytes: int = Field(default=20 * 2**20, ge=1)
    """Of a body, as sent and after content decoding."""
    max_redirects: int = Field(default=5, ge=0)
    """Followed one by one, each checked like a URL of its own."""
    compute_hash: HashKind = "sha256"
    """sha256 of the received bytes is always a column; another kind adds a column of its name."""
    verify_hash: tuple[str, HashKind] | None = None
    """[column, kind], as [md5_of_list, md5]: refuse bytes whose hash is not the hex text in that column."""

    # Opting out.
    user_agent_token: str = Field(default="lavabeam", pattern=r"^[A-Za-z0-9_-]+$")
    """Our product token: in User-Agent, and the name that robots.txt and X-Robots-Tag may address."""
    disallowed_header_directives: tuple[str, ...] = HEADER_DIRECTIVES
    """X-Robots-Tag directives that keep a picture out."""
    respect_tdm: bool = True
    """Keep a picture out that TDM-Reservation: 1 reserves."""
    respect_robots_txt: bool = True
    """Ask each host for its robots.txt first."""

    # The guard.
    allow_private_hosts: tuple[str, ...] = ()
    """Host names, addresses or networks (10.0.0.0/8), each with an optional :port, that may be private."""

    # How it is fetched.
    thread_count: Annotated[int, Runtime()] = Field(default=64, ge=1)
    """Downloads at a time per worker process (they share one event loop; the name is img2dataset's)."""
    timeout: Annotated[float, Runtime()] = Field(default=10, gt=0)
    """Seconds to connect, and without a byte."""
    deadline: Annotated[float, Runtime()] = Field(default=60, gt=0)
    """Seconds for one try as a whole: every redirect and the last byte."""
    retries: Annotated[int, Runtime()] = Field(default=2, ge=0)
    """Tries after the first, for failures that may pass."""
    retry_wait: Annotated[float, Runtime()] = Field(default=1, ge=0)
    """Longest wait in seconds before the second try; doubled before each further one, and a random part of it taken."""
    retry_wait_cap: Annotated[float, Runtime()] = Field(default=30, ge=0)
    """Longest wait in seconds of our own choosing; a Retry-After is waited for up to two minutes."""
    host_limit: Annotated[int, Runtime()] = Field(default=8, ge=1)
    """Downloads at a time from one host, over all workers."""
    host_delay: Annotated[float, Runtime()] = Field(default=0, ge=0)
    """Seconds between the starts of two downloads from one host, over all workers."""
    decode_threads: Annotated[int, Runtime()] = Field(default=2, ge=1)
    """Pictures checked and encoded at a time per worker process."""
    memory: Annotated[int, Runtime()] = Field(default=128 * 2**20, ge=1)
    """Bytes of bodies that a worker process may hold at a time."""
    ca_file: Annotated[str | None, Runtime()] = None
    """PEM file of certificate authorities to trust besides the system's."""

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
