"""The sandboxed environment: what strangers' templates may not do, here and in the worker.

Left out: chat formats (tests/data/test_masks.py).
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bottega.core import templates
from bottega.core.errors import Unsafe, UserError
from bottega.core.templates import Refused, environment, render, render_many

INSIDES = [
    "{{ x.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{% if false %}{{ ''['__class__'] }}{% endif %}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('__cl' ~ 'ass__') }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ ().__class__.__base__.__subclasses__() }}",
    "{{ self.__init__ }}",
    "{{ x['__cla' + 'ss__'] }}",
]


@pytest.mark.parametrize("source", INSIDES)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_template_that_reaches_for_pythons_insides_is_refused(source, trusted):
    with pytest.raises(Unsafe) as caught:
        render(source, {"x": [1]}, trusted=trusted)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["{{ x.append(2) }}", "{{ y.update({'a': 2}) }}", "{{ x.clear() }}"])
def test_a_template_cannot_change_what_it_is_given(source):
    with pytest.raises(Unsafe):
        render(source, {"x": [1], "y": {}}, trusted=True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**9 }}",
        "{{ 'x' * n }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}",
        "{{ ('x' * 1000) * (10**7) }}",
        "{{ range(10**5) | map('string') | join('x' * 1000000) }}",
    ],
)
def test_a_bomb_of_text_ends_with_a_sentence(source):
    with pytest.raises(Unsafe, match="more than|memory"):
        render(source, {"n": 10**9}, trusted=False)


def test_a_template_that_never_ends_is_stopped_by_its_limit_on_cpu_time():
    begun = time.monotonic()
    with pytest.raises(Unsafe, match="more than 1 s of CPU time"):
        render(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", {}, trusted=False, cpu_s=1
        )
    assert time.monotonic() - begun < 20
    assert render("{{ 1 + 1 }}", {}, trusted=False) == "2"


def test_the_worker_is_one_process_for_many_batches_and_is_ended_on_request():
    render("a", {}, trusted=False)
    first = templates._WORKERS[os.getpid()].process
    assert render_many("{{ n }}", [{"n": n} for n in range(2000)], trusted=False) == [str(n) for n in range(2000)]
    assert templates._WORKERS[os.getpid()].process is first
    templates.close_worker()
    assert first.poll() is not None


def test_threads_that_share_the_worker_get_their_own_answers():
    def ask(name: str) -> list:
        return [render("{{ n }}", {"n": f"{name}{i}"}, trusted=False) for i in range(50)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, "abcd")) == [[f"{name}{i}" for i in range(50)] for name in "abcd"]


def test_the_worker_does_not_see_this_process_environment(monkeypatch):
    templates.close_worker()
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    render("a", {}, trusted=False)
    pid = templates._WORKERS[os.getpid()].process.pid
    if not os.path.exists(f"/proc/{pid}/environ"):
        pytest.skip("no /proc on this platform")
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"hush" not in file.read()


def test_a_row_that_a_template_refuses_spares_the_others():
    source = "{% if n == 1 %}{{ raise_exception('not one') }}{% endif %}{{ n }}"
    for trusted in (True, False):
        zero, one, two = render_many(source, [{"n": 0}, {"n": 1}, {"n": 2}], trusted=trusted)
        assert (zero, two) == ("0", "2") and isinstance(one, Refused) and one.reason.endswith("not one")
        with pytest.raises(UserError, match="not one"):
            render(source, {"n": 1}, trusted=trusted)


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% for %}", "{% unknown %}"])
def test_a_template_that_does_not_parse_names_its_line(source):
    with pytest.raises(UserError, match="does not parse at line 2"):
        render("first\n" + source, {}, trusted=False)


def test_nesting_beyond_limits_ends_with_a_sentence():
    with pytest.raises((Unsafe, UserError)):
        render("{{" + "(" * 5000, {}, trusted=False)


def test_worker_and_process_render_the_same_text():
    source = (
        "{{ x | tojson }} {{ 'é ü 漢' }} {% for i in x %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}"
    )
    variables = {"x": [1, 2, {"a<b": "é"}], "lone": "\ud800"}
    texts = {render(source, variables, trusted=trusted) for trusted in (True, False)}
    assert texts == {'[1, 2, {"a<b": "é"}] é ü 漢 1' + "{'a<b': 'é'}"}


def test_the_date_is_a_variable_so_that_the_same_data_gives_the_same_bytes():
    assert render("{{ strftime_now('%d %b %Y') }}", {}, trusted=True) == "01 Jan 2026"
    assert render("{{ strftime_now('%Y') }}", {"today": "2031-05-06"}, trusted=False) == "2031"


def test_generation_blocks_are_marked_only_on_request():
    source = "a{% generation %}b{% endgeneration %}c"
    assert render(source, {}, trusted=True) == "abc"
    marked = render(source, {"mark_generation": True}, trusted=True)
    assert marked == f"a{templates.MARKS[0]}b{templates.MARKS[1]}c"


def test_there_is_one_environment():
    assert environment() is environment()
