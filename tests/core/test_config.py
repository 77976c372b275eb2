"""Plain data to dataclasses: types, bounds, names, and all mistakes at once."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from bottega.core.config import Secret, build, load_yaml, option, plain
from bottega.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    path: str
    weight: float | None = option(None, above=0)

    @staticmethod
    def shorthand(value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str
    lr: float = option(1e-3, above=0)
    batch: int = option(8, low=1, high=64)
    mode: Literal["full", "lora"] = "lora"
    parts: tuple[Inner, ...] = ()
    columns: dict[str, str] | None = None
    key: Secret | None = None


def make(text):
    data, marks = load_yaml(text, file="r.yaml")
    return build(Outer, data, marks=marks)


def test_plain_data_becomes_the_dataclass():
    made = make("name: x\nlr: 1\nparts: [a.jsonl, {path: b.jsonl, weight: 2}]\ncolumns: {prompt: q}\n")
    assert made == Outer(
        name="x", lr=1.0, parts=(Inner(path="a.jsonl"), Inner(path="b.jsonl", weight=2.0)), columns={"prompt": "q"}
    )
    assert isinstance(made.lr, float)


def test_all_mistakes_come_at_once_each_with_its_place():
    with pytest.raises(UserError) as error:
        make("nam: x\nlr: fast\nbatch: 0\nmode: ful\nparts: [{path: 1, weigth: 2}]\ncolumns: {prompt: 3}\n")
    assert str(error.value).splitlines() == [
        "r.yaml:1:1: unknown key 'nam'; did you mean name?",
        "r.yaml:1:1: the key 'name' is missing",
        "r.yaml:2:5: lr is 'fast', but needs a number",
        "r.yaml:3:8: batch is 0, but must be at least 1",
        "r.yaml:4:7: mode is 'ful', but needs one of full, lora; did you mean full?",
        "r.yaml:5:19: unknown key 'weigth'; did you mean weight?",
        "r.yaml:5:16: path is 1, but needs text",
        "r.yaml:6:19: prompt is 3, but needs text",
    ]


def test_a_true_is_no_number_and_a_number_is_no_text():
    with pytest.raises(UserError, match="batch is True"):
        make("name: x\nbatch: true\n")
    with pytest.raises(UserError, match="name is 5"):
        make("name: 5\n")


def test_infinity_is_no_learning_rate():
    with pytest.raises(UserError, match="finite"):
        make("name: x\nlr: .inf\n")


def test_a_secret_is_a_name_until_it_is_asked_for(monkeypatch):
    made = make("name: x\nkey: ${env:BOTTEGA_TEST_KEY}\n")
    assert made.key is not None and plain(made)["key"] == "${env:BOTTEGA_TEST_KEY}"
    with pytest.raises(UserError, match="BOTTEGA_TEST_KEY is not set"):
        made.key.reveal()
    monkeypatch.setenv("BOTTEGA_TEST_KEY", "canary")
    assert made.key.reveal() == "canary" and "canary" not in repr(made)


def test_a_secret_written_out_and_a_variable_elsewhere_are_refused():
    with pytest.raises(UserError, match="secret"):
        make("name: x\nkey: abc123\n")
    with pytest.raises(UserError, match="secrets only"):
        make("name: ${env:HOME}\n")
