"""How a conversation becomes token ids and labels, and how many tokens a picture takes.

Messages (`[{role, content: [{type: 'image' | 'text', text}]}]`) flow in; ids, labels and exact counts flow out. The
`mix` step counts with this code and the trainer trains with it, so the two cannot disagree. Nothing here needs torch or
transformers: a tokenizer is read from its tokenizer.json.
"""

from schemas.chat.counting import Counts, count, learn
from schemas.chat.encoded import IGNORE, ORIGINAL_IMAGE, Encoded
from schemas.chat.encoding import encode
from schemas.chat.images import ImageRule, image_tokens
from schemas.chat.prompts import TEMPLATES, get_template
from schemas.chat.templates import Segment, Template
from schemas.chat.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "IGNORE",
    "ORIGINAL_IMAGE",
    "TEMPLATES",
    "Counts",
    "Encoded",
    "ImageRule",
    "Segment",
    "Template",
    "Tokenizer",
    "count",
    "encode",
    "get_template",
    "image_tokens",
    "learn",
    "load_tokenizer",
]
