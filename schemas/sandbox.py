"""Sandboxed Jinja templates from untrusted files: data, never code, with bounded resources.

jinja2's sandbox keeps a template from Python's inner parts. Here every loop step, call and produced character is
counted besides (`MOST_STEPS`), because a loop within a loop, or a text that doubles forty times, is allowed there.
Filters, methods and globals are those listed here.
"""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.defaults import DEFAULT_FILTERS
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from schemas.sandboxnodes import count

MOST_STEPS = 1_000_000
"""Steps of one rendering, well below a second: one for each character that is made, more for what takes longer (a call
of a macro: 20). A prompt takes a few thousand."""
MOST_SOURCE = 2**18
"""Characters of a template. The longest published chat templates have 20,000."""
_CALL, _LOOK = 20, 4
_MOST_BITS = 10_000
_WIDEST = 1_000
_WIDE = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|[0-9]{4,}|[0-9]*\.(?:\*|[0-9]{4,}))")
# fmt: off
_FILTERS = (
    "abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min",
    "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum",
    "title", "tojson", "trim", "truncate", "unique", "upper", "wordcount",
)
_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "get", "index", "isalnum", "isalpha", "isdecimal", "isdigit", "islower",
    "isspace", "isupper", "items", "join", "keys", "lower", "lstrip", "partition", "removeprefix", "removesuffix",
    "replace", "rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper", "values",
))
# fmt: on
_BUILTIN = (str, bytes, bytearray, int, float, complex, list, tuple, dict, set, frozenset, range, type)


class TemplateFault(Exception):
    """What is wrong with a template; `line` is counted from 1 within it, or 0 where it is not known."""

    def __init__(self, reason: str, line: int = 0):
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.reason, self.line = reason, line


class _Meter:
    def __init__(self, left: int):
        self.left = left

    def charge(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise jinja2.TemplateRuntimeError(f"it takes more than {MOST_STEPS} steps")


_meter: ContextVar[_Meter] = ContextVar("meter")


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles templates. `folder` has the files that they may include; `strict` refuses undefined names."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, folder: Path | None = None, strict: bool = True, extensions: Iterable[Any] = ()):
        super().__init__(
            loader=jinja2.FileSystemLoader(folder) if folder else None,
            undefined=jinja2.StrictUndefined if strict else jinja2.Undefined,
            extensions=list(extensions),
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )
        self.globals = {"range": _range, "dict": dict, "namespace": Namespace}
        self.filters = {name: _metered(name, DEFAULT_FILTERS[name]) for name in _FILTERS}
        self.filters |= {"_each": _each, "_concat": _concat, "_shown": _shown, "_weighed": _weighed, "_spend": _spend}

    def program(self, text: str, known: Iterable[str] | None = None) -> Program:
        """`text`, compiled; raises TemplateFault. With `known`, other names are refused."""
        if len(text) > MOST_SOURCE:
            raise TemplateFault(f"it has {len(text)} characters, at most {MOST_SOURCE} are read")
        return _bounded(lambda: self._program(text, known))

    def _program(self, text: str, known: Iterable[str] | None) -> Program:
        tree = self.parse(text)
        if known is not None:
            unknown = find_undeclared_variables(tree) - {*known, *self.globals}
            for name in tree.find_all(nodes.Name):
                if name.name in unknown:
                    names = ", ".join(sorted(known))
                    raise TemplateFault(f"{name.name!r} is not defined. There are: {names}", name.lineno)
        return Program(self.from_string(text))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return count(super()._parse(source, name, filename))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if callable(value) and isinstance(obj, _BUILTIN) and attr not in _METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`"...".format` is not among the methods, so nothing has to be wrapped."""
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _charge_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = _meter.get()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        meter.charge(_CALL + _weight([owner, *args, *kwargs.values()]))
        if isinstance(owner, str) and name == "replace":
            _charge_growth(name, owner, *args)
        elif isinstance(owner, str) and name == "join" and args:
            args = (_listed(args[0]), *args[1:])
            _charge_growth(name, args[0], owner)
        result = super().call(__context, __obj, *args, **kwargs)
        meter.charge(_length(result))
        return result


class Program:
    """A compiled template."""

    def __init__(self, template: jinja2.Template):
        self._template = template

    def render(self, values: Mapping[str, Any]) -> str:
        """The text; raises TemplateFault for an undefined name, a forbidden thing, or too many steps."""
        return _bounded(lambda: self._template.render(values))


def _bounded(work: Callable[[], Any]) -> Any:
    """The result of `work` under a separate meter; whatever a template can raise becomes a TemplateFault."""
    before = _meter.set(_Meter(MOST_STEPS))
    try:
        return work()
    except TemplateFault:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFault(error.message or "it is not a template", error.lineno) from error
    except Exception as error:
        # Expressions of a template raise what expressions of Python do: 1 / 0, "a" + 1, a recursion.
        reason = str(error) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
        raise TemplateFault(" ".join(reason.split())[:300], _line(error)) from error
    finally:
        _meter.reset(before)


def _line(error: BaseException) -> int:
    """The line of the template where `error` was raised: jinja2 writes such frames into the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or 0 for frame in reversed(frames) if frame.filename == "<template>"), 0)


def _each(items: Any, weight: int) -> Iterator[Any]:
    """The items of a loop, each of which costs what its body writes by itself."""
    meter = _meter.get()
    for item in items:
        meter.charge(weight)
        yield item


def _concat(parts: list[Any]) -> str:
    """`a ~ b`."""
    return "".join(_shown(part) for part in parts)


def _shown(value: Any) -> str:
    """A value as it is written."""
    text = value if isinstance(value, str) else str(_weighed(value))
    _meter.get().charge(len(text))
    return text


def _weighed(value: Any) -> Any:
    """A value that is about to be compared or written: lists within lists may be far longer than their memory."""
    _meter.get().charge(_weight(value))
    return value


def _spend(weight: int) -> str:
    _meter.get().charge(weight)
    return ""


def _range(*bounds: int) -> range:
    found = range(*bounds)
    _meter.get().charge(len(found))
    return found


def _weight(value: Any) -> int:
    """What it takes to look at all of `value`. Charges on the way, so that it ends for shared lists too."""
    if isinstance(value, str):
        return 1 + len(value) // 8
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        meter = _meter.get()
        for item in value:
            meter.charge(_LOOK + _weight(item))
    return 1


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 1


def _listed(items: Any) -> Any:
    """`items`, as a list where their number is not known yet."""
    return items if isinstance(items, Sized) or not isinstance(items, Iterable) else list(_each(items, 1))


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is charged for what it reads and makes."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        meter = _meter.get()
        passed = 1 if hasattr(function, "jinja_pass_arg") else 0
        if name == "join":
            args = (*args[:passed], _listed(args[passed]), *args[passed + 1 :])
        own = args[passed:]
        meter.charge(_LOOK + _weight([*own, *options.values()]))
        _check_numbers(name, (*own[1:], *options.values()))
        if name in ("join", "replace", "format", "indent"):
            _charge_growth(name, *own, *options.values())
        result = function(*args, **options)
        meter.charge(_length(result))
        return result

    return run


def _check_numbers(name: str, options: tuple[Any, ...]) -> None:
    """Widths, precisions and the like: no filter needs a large one, and `sum` adds numbers only."""
    for option in options:
        if isinstance(option, int) and abs(option) > _WIDEST and name not in ("default", "d", "truncate", "format"):
            raise jinja2.TemplateRuntimeError(f"{option} is too large for the filter {name}, at most {_WIDEST}")
        if name == "sum" and isinstance(option, list | tuple):
            raise jinja2.TemplateRuntimeError("the filter sum adds numbers")


def _charge_growth(name: str, value: Any, *options: Any) -> None:
    """Charge, before it is made, what can be longer than all that it is made of."""
    meter = _meter.get()
    if name == "join":
        meter.charge(_length(value) * len(str(options[0] if options else "")))
    elif name == "replace" and len(options) > 1:
        old, new, text = str(options[0]), str(options[1]), str(value)
        meter.charge(text.count(old) * len(new))
    elif name == "indent":
        width = options[0] if options else 4
        meter.charge((str(value).count("\n") + 1) * (len(width) if isinstance(width, str) else int(width)))
    elif name == "format":
        _charge_operator("%", str(value), options)


def _charge_operator(operator: str, left: Any, right: Any) -> None:
    meter = _meter.get()
    sequences = [value for value in (left, right) if isinstance(value, str | bytes | list | tuple)]
    if operator == "%" and isinstance(left, str | bytes):
        _check_widths(str(left))
        meter.charge(str(left).count("%") * (1 + _text_length(right)) + len(left))
    elif operator == "+" and sequences:
        meter.charge(sum(map(len, sequences)))
    elif operator == "*" and sequences:
        times = right if sequences[0] is left else left
        meter.charge(len(sequences[0]) * max(0, times) if isinstance(times, int) else 1)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MOST_BITS:
            raise jinja2.TemplateRuntimeError(f"the result of {operator} has too many digits")
        meter.charge(1)
    else:
        meter.charge(1)


def _text_length(value: Any) -> int:
    """An upper bound of a value's text, where it is a text or holds some."""
    if isinstance(value, str | bytes):
        return len(value)
    _meter.get().charge(_weight(value))
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    return sum(4 + _text_length(item) for item in value) if isinstance(value, list | tuple | set) else 400


def _check_widths(pattern: str) -> None:
    """Refuse `%1000000d` and `%*d`."""
    if _WIDE.search(pattern):
        raise jinja2.TemplateRuntimeError(f"a width of more than 999 in the format {pattern[:40]!r}")
