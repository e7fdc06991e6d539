"""Our templates as Hugging Face chat templates, so that saved checkpoints are prompted as in training."""

from __future__ import annotations

from schemas.chat.templates import CONTROL, Template
from schemas.chat.tokenizer import Tokenizer

CONTENT = (
    "{%- macro content(message, picture, trim) -%}"
    "{%- if message.content is string -%}{{ message.content | trim if trim else message.content }}"
    "{%- else -%}"
    "{%- set pictures = message.content | selectattr('type', 'equalto', 'image') | list | length -%}"
    "{%- set ns = namespace(text='', last='\\n') -%}"
    "{%- for part in message.content if part.type == 'text' -%}{%- set ns.text = ns.text + (part.text or '') -%}"
    "{%- endfor -%}"
    "{%- if pictures == 0 -%}{{ ns.text | trim if trim else ns.text }}"
    "{%- elif pictures == 1 -%}{{ picture }}{{ '\\n' + ns.text | trim if ns.text | trim else '' }}"
    "{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- set shown = '<image>' if part.type == 'image' else part.text or '' -%}"
    "{%- if shown -%}"
    "{{ '\\n' if ns.last | trim == ns.last and shown[0] | trim == shown[0] else '' }}"
    "{{ picture if part.type == 'image' else shown }}"
    "{%- set ns.last = shown[-1] -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{%- endif -%}"
    "{%- endmacro -%}"
)
"""A message's text as Template.render writes it: a single picture first, several in their positions, one per line."""

GROUP = (
    "{%- set ns = namespace(system=default_system, given=none, turns=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}"
    "{%- set said = content(message, '', false) -%}"
    "{%- set ns.given = said if ns.given is none else ns.given + '\\n' + said -%}"
    "{%- elif message.role == 'user' or ns.turns -%}{%- set ns.turns = ns.turns + [message] -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- set ns.system = default_system if ns.given is none else ns.given -%}"
)


def chat_template(template: Template, tokenizer: Tokenizer, generation: bool = True) -> str:
    """`template` for a tokenizer_config.json, as Hugging Face's `apply_chat_template` reads it.

    Rendered and tokenised without further special tokens, it gives the ids of `encode`. generation: mark answers with
    `{% generation %}`, which yields transformers' assistant masks and is what TRL's assistant_only_loss goes by.
    """
    opens = tokenizer.bos_id is not None and (tokenizer.adds_bos or template.opens)
    return _text(template, opens, tokenizer.prefix == "first", generation)


def _text(template: Template, opens: bool, blank: bool, generation: bool) -> str:
    """The Jinja text of `template`.

    opens: write the tokenizer's first token. blank: follow it with the blank that such a tokenizer then omits from the
    first word, because it only writes one at the very start of a text. generation: mark the answers.
    """
    if template.bare:
        return CONTENT + _opening(template, opens, False) + _bare(template, generation)
    text = f"{CONTENT}{{%- set default_system = {_quoted(template.default_system)} -%}}{GROUP}"
    text += _opening(template, opens, blank)
    if not template.in_user:
        text += _system(template)
    text += "{%- for message in ns.turns -%}{%- if message.role == 'user' -%}" + _user(template)
    text += "{%- else -%}" + _answer(template, generation) + "{%- endif -%}{%- endfor -%}"
    return text + "{%- if add_generation_prompt -%}" + _say(template.assistant[0]) + "{%- endif -%}"


def _opening(template: Template, opens: bool, blank: bool) -> str:
    starts_with_text = CONTROL.match(template.user[0] if template.in_user else template.system[0]) is None
    return ("{{ bos_token }}" if opens else "") + ("{{ ' ' }}" if opens and blank and starts_with_text else "")


def _system(template: Template) -> str:
    return (
        "{%- if ns.system -%}"
        + _say(template.system[0])
        + "{{ ns.system }}"
        + _say(template.system[1])
        + "{%- endif -%}"
    )


def _user(template: Template) -> str:
    opening = _say(template.user[0])
    if template.again is not None:
        opening = "{%- if loop.first -%}" + opening + "{%- else -%}" + _say(template.again) + "{%- endif -%}"
    if template.in_user:
        opening += "{%- if loop.first -%}" + _system(template) + "{%- endif -%}"
    return opening + f"{{{{ {_content(template)} }}}}" + _say(template.user[1])


def _answer(template: Template, generation: bool) -> str:
    ending = template.assistant[1]
    pieces = [piece for piece in CONTROL.split(ending) if piece]
    last = max((number for number, piece in enumerate(pieces) if CONTROL.fullmatch(piece)), default=len(pieces) - 1)
    supervised, after = "".join(pieces[: last + 1]), "".join(pieces[last + 1 :])
    said = (
        f"{{%- set answer = {_content(template)} -%}}{_say(template.assistant[0])}"
        f"{{%- if answer -%}}{_say(template.answer_gap)}{{%- endif -%}}"
    )
    full, empty = _say(supervised), _say(supervised.lstrip(" "))
    body = f"{{%- if answer -%}}{{{{ answer }}}}{full}{{%- else -%}}{empty}{{%- endif -%}}"
    return said + _marked(body, generation) + _say(after)


def _bare(template: Template, generation: bool) -> str:
    pictures = "{%- for part in message.content if part.type == 'image' -%}{{ '<image>' }}{%- endfor -%}"
    answer = "{{ content(message, '', false) }}" + _say(template.assistant[1])
    return (
        "{%- for message in messages -%}{%- if message.role == 'user' -%}{%- if message.content is not string -%}"
        + pictures
        + "{%- endif -%}{%- elif message.role == 'assistant' -%}"
        + _marked(answer, generation)
        + "{%- endif -%}{%- endfor -%}"
    )


def _content(template: Template) -> str:
    picture = f"{template.picture[0]}<image>{template.picture[1]}"
    return f"content(message, {_quoted(picture)}, {'true' if template.trim else 'false'})"


def _marked(text: str, generation: bool) -> str:
    # Spelled like this: TRL looks for this text, and readers without the tag (TGI, mistral.rs) take it out.
    return "{% generation %}" + text + "{% endgeneration %}" if generation else text


def _say(text: str) -> str:
    """An expression that writes `text`, with `<s>` and `</s>` as the tokenizer's own tokens."""
    words = [{"<s>": "bos_token", "</s>": "eos_token"}.get(part, _quoted(part)) for part in CONTROL.split(text) if part]
    return "".join(f"{{{{ {word} }}}}" for word in words)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
