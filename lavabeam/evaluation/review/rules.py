"""The judge's instructions by category: our own rules, or a file such as LLaVA's rule.json."""

from __future__ import annotations

from pathlib import Path

from schemas.config import StrictModel, nearest, parse, read_yaml
from schemas.errors import InputError

FOLDER = Path(__file__).parent.parent / "rules"
DEFAULT = "default"
_OF_CAPTIONS = "llava_bench_"
"""In front of a category where the context is sentences alone, as LLaVA's eval_gpt_review_bench.py looks it up."""


class Rule(StrictModel):
    """How the answers are called (`[Assistant 1]`), and what the judge shall do with them."""

    role: str = "Assistant"
    prompt: str


def read_rules(path: str | Path | None) -> dict[str, Rule]:
    """The rules by category, of a YAML or JSON file (None: our own); raises InputError naming file and key."""
    source = Path(path) if path else FOLDER / "review.yaml"
    found = read_yaml(source)  # JSON is YAML
    wrong = [name for name, rule in found.items() if not isinstance(rule, dict)]
    if wrong:
        raise InputError(f"{source}: rule {wrong[0]!r} is {found[wrong[0]]!r:.60}; expected `role` and `prompt`.")
    return {str(name): parse(rule, Rule, f"{source}, rule {name!r}") for name, rule in found.items()}


def rule_of(rules: dict[str, Rule], category: str, boxes: bool, sentences: bool, where: str) -> tuple[str, Rule]:
    """(its name, the rule) for a question about a picture whose context has boxes or sentences alone, or about none.

    A question without a context may take the rule `default`; one with a context may not, because that rule says
    nothing about it. Raises InputError naming `where`.
    """
    names = [category]
    if sentences and not boxes and not category.startswith(_OF_CAPTIONS):
        names.insert(0, f"{_OF_CAPTIONS}{category}")
    if not sentences and not boxes:
        names.append(DEFAULT)
    for name in names:
        if name in rules:
            return name, rules[name]
    raise InputError(
        f"{where}: no rule for category {category!r}. {nearest(names[0], list(rules))} Add it to the file of --rule."
    )
