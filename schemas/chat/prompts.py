"""The table of templates, with the system prompts and layouts that the models were trained with."""

from __future__ import annotations

from dataclasses import replace

from schemas.chat.templates import Template
from schemas.config import nearest
from schemas.errors import InputError

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""FastChat, Vicuna v1.1; LLaVA v1.5 kept it. Version 0 says human for user."""

LLAMA_2_SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
"""Meta's Llama-2-chat default (two blanks included)."""

VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""LLaVA on Llama-2 and Llama-3."""

TAGGED = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
HUMAN = VICUNA.replace("user", "human")

START, END = "<|im_start|>", "<|im_end|>"
HEAD, HEADED, TURN_END = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"


def get_template(name: str) -> Template:
    """The template of this name; raises InputError naming the nearest known one."""
    if name not in TEMPLATES:
        raise InputError(f"template {name!r} is unknown. {nearest(name, list(TEMPLATES))}")
    return TEMPLATES[name]


def _chatml(name: str, family: str, system: str, between: str) -> Template:
    """ChatML (OpenAI): one block per turn. `between` follows each block: a newline, or nothing as in MPT."""
    return Template(
        name,
        family,
        system,
        system=(f"{START}system\n", END + between),
        user=(f"{START}user\n", END + between),
        assistant=(f"{START}assistant\n", END + between),
        stop=(END,),
    )


def _inst(name: str, system: str, again: str) -> Template:
    """[INST] rounds (Llama 2); the system prompt is inside the first."""
    return Template(
        name,
        "inst",
        system,
        system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        user=("[INST] ", " [/INST]"),
        assistant=("", " </s>"),
        answer_gap=" ",
        again=again,
        in_user=True,
    )


V1 = Template(
    "v1",
    "two",
    VICUNA,
    system=("", " "),
    user=("USER: ", " "),
    assistant=("ASSISTANT:", "</s>"),
    answer_gap=" ",
)
V0 = Template(
    "v0",
    "signal",
    HUMAN,
    system=("", "\n\n"),
    user=("### Human: ", "\n### "),
    assistant=("Assistant:", "\n###"),
    answer_gap=" ",
    again=" Human: ",
    stop=("###",),
)
PLAIN = Template("plain", "plain", "", system=("", ""), user=("", ""), assistant=("", "\n"), bare=True, stop=("\n",))
LLAMA_3 = Template(
    "llama_3",
    "llama_3",
    VISION,
    system=(f"{HEAD}system{HEADED}\n\n", TURN_END),
    user=(f"{HEAD}user{HEADED}\n\n", TURN_END),
    assistant=(f"{HEAD}assistant{HEADED}\n\n", TURN_END),
    trim=True,
    opens=True,
    stop=(TURN_END,),
)

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        PLAIN,
        V0,
        V1,
        replace(V1, name="llava_v1", default_system=HUMAN),
        replace(V1, name="v1_mmtag", default_system=TAGGED, picture=("<Image>", "</Image>")),
        _inst("llama_2", LLAMA_2_SAFE, again="<s>[INST] "),
        _inst("llava_llama_2", VISION, again="<s>[INST] "),
        _inst("mistral", "", again="[INST] "),
        LLAMA_3,
        _chatml("chatml", "qwen", "Answer the questions.", "\n"),
        _chatml("qwen", "qwen", "You are a helpful assistant.", "\n"),
        _chatml("mpt", "mpt", MPT, ""),
        _chatml("chatml_direct", "mpt", "Answer the questions.", ""),
        _chatml("mistral_direct", "mpt", "Answer the questions.", ""),
    )
}
TEMPLATES |= {
    "vicuna": V1,
    "vicuna_v1": V1,
    "mistral_instruct": TEMPLATES["mistral"],
    "llava_llama_3": LLAMA_3,
    "qwen_1_5": TEMPLATES["qwen"],
    "qwen_2_5": TEMPLATES["qwen"],
}
