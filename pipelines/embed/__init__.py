"""The steps `embed` and `embed_text`: pictures or texts in, one unit vector per row out."""

from pipelines.embed.step import Embed, EmbedConfig, EmbedText, EmbedTextConfig

__all__ = ["Embed", "EmbedConfig", "EmbedText", "EmbedTextConfig"]
