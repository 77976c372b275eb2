"""Values against JSON schemas: each word on a value that fits and one that does not, and schemas that are refused.

Left out: the words that are not known here; a schema that has one is refused.
"""

from __future__ import annotations

import pytest

from bottega.core.errors import UserError
from bottega.grade import rewards
from bottega.grade.rewards import Answer
from bottega.grade.schema import fits, read_schema

PERSON = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}
TREE = {"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [1, 1.0, -3], [1.5, True, "1", None]),
        ({"type": ["number", "null"]}, [1.5, None], [False, "x"]),
        ({"type": "boolean"}, [True, False], [0, 1]),
        ({"enum": [1, "a", None]}, [1, 1.0, "a", None], [True, "b", 0]),
        ({"const": {"a": [1]}}, [{"a": [1.0]}], [{"a": [True]}, {"a": []}]),
        ({"minimum": 1, "exclusiveMaximum": 3}, [1, 2.9, "text"], [0.9, 3]),
        ({"multipleOf": 0.1}, [0.3, 1], [0.35]),
        ({"minLength": 2, "maxLength": 3}, ["ab", "èèè", 7], ["a", "abcd"]),
        ({"pattern": "^[A-Z]"}, ["Aa", 3], ["aA"]),
        (PERSON, [{"name": "Ada", "age": 36}], [{"name": "Ada"}, {"name": "", "age": 1}, {"name": "A", "age": 1, "x": 1}, []]),
        ({"patternProperties": {"^n_": {"type": "number"}}, "additionalProperties": {"type": "string"}},
         [{"n_a": 1, "b": "x"}], [{"n_a": "x"}, {"b": 1}]),
        ({"minProperties": 1, "maxProperties": 1}, [{"a": 1}, []], [{}, {"a": 1, "b": 2}]),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "number"}, "minItems": 1},
         [["a"], ["a", 1, 2]], [[], [1], ["a", "b"]]),
        ({"uniqueItems": True}, [[1, 2, True], [{"a": 1}, {"a": 2}]], [[1, 1.0], [{"a": 1}, {"a": 1}]]),
        ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, [2], [0, 4]),
        ({"anyOf": [{"type": "string"}, {"minimum": 3}]}, ["a", 3], [2]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, [0, 4], [2]),
        ({"not": {"type": "null"}}, [0], [None]),
        ({"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"minimum": 0}}, ["ab", 0], ["a", -1]),
        (TREE, [[], [[], [[]]]], [[1], [[[2]]]]),
        ({"properties": {"a": False}}, [{}, {"b": 1}], [{"a": 1}]),
        (True, [1, None], []),
    ],
)  # fmt: skip
def test_a_word_holds_for_values_that_fit_and_for_no_other(schema, good, bad):
    wanted = read_schema(schema)
    assert [value for value in good if not fits(value, wanted)] == []
    assert [value for value in bad if fits(value, wanted)] == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"propertis": {}}, "has 'propertis', which is not known here; did you mean properties"),
        ({"properties": {"a": {"type": "int"}}}, "at #/properties/a has the type 'int'"),
        ({"items": 3}, "at #/items is 3, and a schema is a mapping"),
        ({"$ref": "#/$defs/none"}, "refers to '#/.defs/none', which it does not hold"),
        ({"$ref": "http://host/s.json"}, "only parts of itself"),
        ("{not json", "is no JSON"),
        ("/nowhere.json", "cannot be read"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_its_place(schema, said):
    with pytest.raises(UserError, match=said):
        read_schema(schema)


def test_the_reward_finds_the_json_of_a_reply(tmp_path):
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["a"]}')
    replies = ['Here: ```json\n{"a": 1}\n```', '{"b": 1}', "no JSON", "null"]
    asked = [Answer(prompt="?", reply=reply) for reply in replies]
    for options in ({"path": str(tmp_path / "s.json")}, {"schema": {"type": "object", "required": ["a"]}}):
        assert rewards.find("json_schema", options)(asked) == [1.0, 0.0, 0.0, 0.0]
    assert rewards.find("json_schema", {"schema": {"type": "null"}})(asked) == [0.0, 0.0, 0.0, 1.0]
    with pytest.raises(UserError, match="and not both"):
        rewards.find("json_schema", {})
