"""Templates of others: they write text, reach nothing, and end."""

import pytest

from schemas.chat.checked import check_chat_template
from schemas.config import read_yaml
from schemas.errors import InputError
from schemas.sandbox import MOST_SOURCE, Sandbox, TemplateFault

VALUES = {"x": "a", "rows": [{"k": 1}, {"k": 2}]}
DOUBLING = "{% set ns = namespace(x=START, y=START) %}{% for i in range(60) %}{% set ns.x = NEXT %}{% endfor %}"
TEXT = DOUBLING.replace("START", "'a'")
LISTS = DOUBLING.replace("START", "[1]").replace("NEXT", "[ns.x, ns.x]")
CODE = [
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ x['__class__'] }}",
    "{{ x|attr('__class__') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ (x|map).__globals__ }}",
    "{{ rows.append(1) }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ dict.mro() }}",
    "{% import 'a' as b %}",
    "{% from 'a' import b %}",
    "{% extends 'a' %}",
    "{% include x %}",
    "{% include '../../etc/passwd' %}",
]
HEAVY = [
    "{{ range(10**9) }}",
    "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ [0] * 10**10 }}",
    "{{ 2 ** (10**9) }}",
    "{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}",
    TEXT.replace("NEXT", "ns.x ~ ns.x"),
    TEXT.replace("NEXT", "ns.x + ns.x"),
    TEXT.replace("NEXT", "'%s%s' % (ns.x, ns.x)"),
    TEXT.replace("NEXT", "[ns.x, ns.x]|join"),
    LISTS + "{{ ns.x }}",
    LISTS + "{{ ns.x|tojson }}",
    LISTS + "{{ ns.x == ns.x|list }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%.1000000000f'|format(1) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'|center(10**9) }}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ ('a' * 10**5)|replace('', 'b' * 10**5) }}",
    "{{ ('a' * 10**5).replace('', 'b' * 10**5) }}",
    "{{ range(10**5)|join('a' * 10**5) }}",
    "{{ range(10**4)|map('string')|join('a' * 10**5) }}",
    "{{ ('a' * 10**5).join(range(10**4)|map('string')) }}",
    "{{ ('\n' * 10**5)|indent(1000) }}",
    "{{ x|tojson(indent=10**9) }}",
    "{{ x|batch(10**9, 'a')|list }}",
    "{{ [[1] * 10**3] * 10**3|sum(start=[]) }}",
    "{% for a in range(10**4) %}" + "x" * 10**4 + "{% endfor %}",
    "{% set z %}{% for a in range(10**4) %}" + "x" * 10**4 + "{% endfor %}{% endset %}",
]
BROKEN = [
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{{ undefined_name }}",
    "{{ x.nothing }}",
    "{{ " + "(" * 3_000 + "1" + ")" * 3_000 + " }}",
    "{{ " + "9" * 5_000 + " }}",
    "{% for a in x %}" * 30 + "{% endfor %}" * 30,
    "{{ x|nofilter }}",
    "{% for %}",
    "a" * (MOST_SOURCE + 1),
]


@pytest.mark.parametrize("text", CODE + HEAVY + BROKEN, ids=lambda text: text[:40])
def test_what_a_template_may_not_do_is_a_fault(text):
    with pytest.raises(TemplateFault):
        Sandbox().program(text).render(VALUES)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("{% for row in rows %}{{ loop.index }}:{{ row.k }}{{ ',' if not loop.last }}{% endfor %}", "1:1,2:2"),
        ("{% for row in rows if row.k > 1 %}{{ row.k }}{% else %}none{% endfor %}", "2"),
        ("{{ rows|map(attribute='k')|join('-') }} {{ ', '.join(['a', 'b']) }}", "1-2 a, b"),
        ("{{ '%.2f %s'|format(0.5, x) }} {{ '%03d' % 7 }} {{ x ~ 1 }} {{ x * 3 }}", "0.50 a 007 a1 aaa"),
        ("{{ x.upper() }} {{ x|replace('a', 'b') }} {{ missing|default('d') }} {{ x is eq('a') }}", "A b d True"),
        ("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(x) }}{% set y = 'z' %}{{ y }}", "<a>z"),
        ("{% filter upper %}{{ x }}b{% endfilter %}{{ dict(a=1)|tojson }}", 'AB{"a": 1}'),
    ],
)
def test_what_prompts_do_works(text, written):
    assert Sandbox().program(text).render(VALUES) == written


def test_a_fault_names_the_line():
    with pytest.raises(TemplateFault, match=r"^line 3: 'str object' has no attribute 'y'"):
        Sandbox().program("a\nb\n{{ x.y }}").render(VALUES)
    with pytest.raises(TemplateFault, match=r"^line 2: 'z' is not defined. There are: x"):
        Sandbox().program("{{ x }}\n{% if false %}{{ z }}{% endif %}", known=["x"])


def test_a_rendering_does_not_pay_for_the_one_before():
    program = Sandbox().program("{% for a in range(10**5) %}{% endfor %}")
    for _ in range(6):
        assert program.render({}) == ""


ASKED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
TOKENS = {"bos_token": "<s>"}


def test_a_models_chat_template_is_rendered():
    template = (
        "{{ bos_token }}{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
        "{% generation %}{{ part['text'] }}{% endgeneration %}{% break %}{% endfor %}{% endif %}{% endfor %}"
        "{% if tools is defined and tools %}{{ raise_exception('no') }}{% endif %}{{ strftime_now('%d %b %Y') }}"
    )
    check_chat_template({"default": template}, ASKED, TOKENS, "folder")


@pytest.mark.parametrize("template", [*CODE[:2], *HEAVY[:2], "{{ raise_exception('no') }}", ["a"]], ids=str)
def test_a_hostile_chat_template_is_refused(template):
    with pytest.raises(InputError, match="folder: the chat template is refused: "):
        check_chat_template(template, ASKED, {"x": "a", "rows": []}, "folder")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{new}: &{new} [{','.join(['*' + old] * 8)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: &a [*a]\n",
        "a: " + "[" * 600,
        "a: " + "9" * 5_000,
        "a: 2001-99-99",
    ],
    ids=["aliases", "itself", "deep", "number", "date"],
)
def test_yaml_that_grows_or_breaks_is_refused(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml: "):
        read_yaml(tmp_path / "a.yaml")
