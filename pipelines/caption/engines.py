"""The engines by name. To add one, add its config to the union and its class to the table."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pipelines.caption.endpoint import Endpoint, EndpointCaptionConfig
from pipelines.caption.engine import Engine
from pipelines.caption.huggingface import Transformers, TransformersConfig
from pipelines.caption.labels import Labels, LabelsConfig

AnyEngine = LabelsConfig | TransformersConfig | EndpointCaptionConfig
EngineConfig = Annotated[AnyEngine, Field(discriminator="name")]

_ENGINES: dict[type, Any] = {
    LabelsConfig: Labels,
    TransformersConfig: Transformers,
    EndpointCaptionConfig: Endpoint,
}


def build_engine(config: AnyEngine) -> Engine:
    """The engine that a config describes, not yet set up."""
    return _ENGINES[type(config)](config)
