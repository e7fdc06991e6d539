"""A tokenizer of single bytes with the control tokens of `chatml`."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers


def write_tokenizer(folder: Path) -> None:
    vocabulary = {"<image>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    letters = {letter: len(vocabulary) + place for place, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, **letters}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(list(vocabulary))
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
