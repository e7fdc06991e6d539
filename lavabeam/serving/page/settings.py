"""What a page needs to know. It travels to the page's process as JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class PageSettings(BaseModel):
    """One page for one gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway: str = Field("", description="The address of the gateway, or of any OpenAI-compatible server")
    host: str = Field("127.0.0.1", description="The address to listen on")
    port: int = Field(7860, ge=0, lt=65536, description="The port to listen on; 0 takes a free one")
    record: Path | None = Field(None, description="The folder of the datasets that conversations are added to")
    allow_private_hosts: tuple[str, ...] = Field((), description="Private hosts that pictures may be recorded from")
