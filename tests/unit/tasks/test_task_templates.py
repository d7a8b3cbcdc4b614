"""A prompt template puts plain data into text; whatever else it tries is one sentence with its file and line, soon."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.tasks.templates import MAX_PROMPT, PromptTemplate

DATA: dict[str, Any] = {
    "company": {"name": "Acme", "mission": "sell % and {{ braces }}"},
    "criteria": [{"id": f"c{number}", "text": f"Text {number}."} for number in range(20)],
    "tone": "Witty",
    "post_a": "p" * 100_000,
}


def rendered(source: str) -> str:
    return PromptTemplate(source, "task/prompts/student.j2").render(DATA)


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{{ company.name }} {{ company['mission'] }}\n", "Acme sell % and {{ braces }}"),
        (
            "{% for c in criteria if c.id != 'c1' %}{{ loop.index }}/{{ loop.length }}{{ ',' }}{% endfor %}",
            "".join(f"{n}/19," for n in range(1, 20)),
        ),
        ("{{ criteria | map(attribute='id') | join(', ') }}", ", ".join(f"c{n}" for n in range(20))),
        ("{{ tone | upper }} {{ tone | replace('t', 'T') }} {{ criteria | length + 1 }}", "WITTY WiTTy 21"),
        ("{% if slogan is defined %}x{% elif tone in ['Witty'] %}y{% endif %}", "y"),
        (
            "{{ company.slogan | default('none') }} {{ tone ~ '!' }} {{ 'a' + 'b' }} {{ 7 // 2 * 3 }}",
            "none Witty! ab 9",
        ),
        (
            "{% for a in criteria %}{% for b in criteria %}{{ a.id }}{% endfor %}{% else %}z{% endfor %}",
            "".join(f"c{n}" * 20 for n in range(20)),
        ),
        ("{% raw %}{{ kept }}{% endraw %}{# note #}", "{{ kept }}"),
        ("{{ criteria[-1].text }} {{ criteria[0]['id'] }} {{ 'x' if tone == 'Calm' else 'y' }}", "Text 19. c0 y"),
    ],
)
def test_allowed_syntax_is_rendered(source: str, prompt: str) -> None:
    assert rendered(source) == prompt


ATTACKS = [
    "{{ company.parse_raw('x', proto='pickle', allow_pickle=true) }}",
    "{{ company.model_json_schema() }}",
    "{{ company.__class__ }}",
    "{{ company['__class__'] }}",
    "{{ company.keys }}",
    "{{ tone.__class__.__mro__ }}",
    "{{ tone.format }}",
    "{{ tone.upper() }}",
    "{{ '{0.__class__}'.format(tone) }}",
    "{{ '%s' % tone }}",
    "{{ '%999999999s' | format(tone) }}",
    "{{ tone | attr('__class__') }}",
    "{{ criteria | map('attr', '__class__') | list }}",
    "{{ criteria | map(attribute='__class__') | list }}",
    "{{ criteria | groupby('id') }}",
    "{{ tone | center(10 ** 9) }}",
    "{{ tone | indent(10 ** 9) }}",
    "{{ tone | filesizeformat }}",
    "{{ 'x' * 10 ** 10 }}",
    "{{ 'x' * 1000000000 }}",
    "{{ [1] * 1000000000 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ 9 | round(1000000000, 'ceil') }}",
    "{{ range(10 ** 9) }}",
    "{% for n in range(1000000000) %}{% endfor %}",
    "{{ lipsum(n=100000) }}",
    "{{ cycler('a') }}",
    "{{ joiner() }}",
    "{{ dict(a=1) }}",
    "{% set n = namespace(x=1) %}",
    "{% set x = tone %}",
    "{% set x %}a{% endset %}",
    "{% with x = tone %}{% endwith %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for c in criteria recursive %}{{ loop(criteria) }}{% endfor %}",
    "{% for c in criteria %}{{ loop.cycle('a') }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import '../x.j2' as x %}",
    "{% from 'x' import y %}",
    "{% extends 'base.j2' %}",
    "{% block a %}{% endblock %}",
    "{% filter upper %}a{% endfilter %}",
    "{% call m() %}{% endcall %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ self }}",
    "{{ self._TemplateReference__context }}",
    "{{ _steps }}",
    "{{ tone | _counted(1) }}",
    "{{ config }}",
    "{{ tone is callable }}",
    "{{ criteria[0:5] }}",
    "{{ 1 / 0 }}",
    "{{ tone + 1 }}",
    "{{ -tone }}",
    "{{ post_a | replace('p', post_a) }}",
    "{{ post_a | join(post_a) }}",
    "{{ post_a ~ post_a }}",
    "{{ post_a + post_a }}",
    "{{ criteria | map(attribute='id') | join(post_a) }}",
    "{% for c in criteria %}" * 6 + "{% endfor %}" * 6,
    "{% for c in post_a %}{% for d in post_a %}{% endfor %}{% endfor %}",
    "{% for c in post_a %}{{ post_a }}{% endfor %}",
    "{% for x in [tone ~ tone] %}" * 3 + "{% for y in [post_a + post_a] %}{% endfor %}" + "{% endfor %}" * 3,
    "{% if tone %}",
    "{{ tone | nofilter }}",
    "{{ tone",
    "{% for c in criteria %}{% break %}{% endfor %}",
    "{{ " + "9" * 5_000 + " }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_forbidden_syntax_is_refused_with_its_line(attack: str) -> None:
    with pytest.raises(SpecError) as caught:
        rendered("A prompt\n\n" + attack)
    message = str(caught.value)
    assert message.startswith("task/prompts/student.j2: ")
    assert message.endswith("correct the template")
    assert "(line 3)" in message or "more than" in message or attack.startswith(("{{ 9999", "{% auto"))
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 50_000,
        "{{ not " * 20_000,
        "{{ tone" + ".a" * 20_000 + " }}",
        "{{ 1" + "+1" * 20_000 + " }}",
        "{% if a %}" * 20_000,
        "{% for c in criteria %}" * 30 + "{% endfor %}" * 30,
        "{%" * 50_000,
        "x" * 300_000,
    ],
)
def test_deep_and_long_templates_are_refused(source: str) -> None:
    with pytest.raises(SpecError, match=r"^task/prompts/student.j2: "):
        rendered(source)


def test_concatenation_in_templates_is_limited_in_memory() -> None:
    tracemalloc.start()
    for attack in ATTACKS:
        with pytest.raises(SpecError):
            rendered(attack)
    assert tracemalloc.get_traced_memory()[1] < 10 * MAX_PROMPT
    tracemalloc.stop()


def test_missing_attribute_lists_the_keys() -> None:
    with pytest.raises(SpecError, match=r"there is no attribute 'nam'; its keys are name, mission \(line 2\)"):
        rendered("\n{{ company.nam }}")
    with pytest.raises(SpecError, match=r"'compani' is undefined \(line 1\)"):
        rendered("{{ compani.name }}")
