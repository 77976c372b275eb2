"""Options of functions and classes, read from source without importing torch."""

from typing import Any

from bottega.core import table


def test_options_of_a_function_are_its_keyword_only_parameters():
    found = table.options("bottega.train.objectives.preference:dpo")
    assert found["beta"] == table.Option(name="beta", kind=float, default=0.1)
    assert found["length_normalised"].kind is bool and "scores" not in found


def test_options_of_a_class_are_those_of_its_maker_with_aliases_resolved():
    found = table.options("bottega.models.methods.lora:Lora")
    assert found["rank"].default == 16 and found["targets"].default == "all-linear"
    assert "pissa" in found["init"].kind.__args__


def test_fields_of_a_dataclass_and_keys_of_a_literal_table_are_found():
    assert table.options("bottega.train.settings:LoopSettings")["steps"].default is table.REQUIRED
    assert "adamw" in table.keys("bottega.train.optim:OPTIMIZERS")


def test_resolve_imports_what_is_named():
    assert table.resolve("bottega.core.table:options") is table.options
    assert table.Option(name="x", kind=Any).default is table.REQUIRED
