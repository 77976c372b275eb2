"""A context that grows: the same tokens in the same order, cut short at first; it goes on where it was killed."""

import json
from pathlib import Path

import pytest
import torch

from bottega.core.errors import UserError
from bottega.core.types import Row, Tokens
from bottega.train.context import Growing, Length
from bottega.train.source import Dataset
from bottega.workshop.stages import run
from tests.models.tiny import tiny_model
from tests.train.clients import VOCABULARY, make_loop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model("llama", tmp_path_factory.mktemp("llama"), vocab=VOCABULARY)


def blocks(count: int, length: int) -> list[Row]:
    return [Row(index=i, branches=(Tokens(list(range(i, i + length)), [1.0] * length),)) for i in range(count)]


def ids(rows: list[Row]) -> list[list[int]]:
    return [list(row.branches[0].ids) for row in rows]


def test_early_steps_see_the_same_tokens_in_shorter_rows():
    """Blocks of 8, two a step: rows of 2 in the first step, of 4 in the second and third, whole ones after that."""
    whole, growing = (Dataset(blocks(8, 8), batch=2, seed=3) for _ in range(2))
    source = Growing(growing, [Length(2, 1), Length(4, 3)])
    for step, size in enumerate([2, 4, 4, 8, 8]):
        got, state = source.next()
        wanted, _ = whole.next()
        assert [token for row in ids(got) for token in row] == [token for row in ids(wanted) for token in row]
        assert {len(row) for row in ids(got)} == {size} and state["taken"] == step + 1


def test_it_goes_on_after_any_state():
    source = Growing(Dataset(blocks(6, 8), batch=2, seed=3), [Length(2, 2), Length(4, 4)])
    seen = [source.next() for _ in range(6)]
    for number, (_, state) in enumerate(seen[:-1]):
        again = Growing(Dataset(blocks(6, 8), batch=2, seed=3), [Length(2, 2), Length(4, 4)])
        again.restore(json.loads(json.dumps(state)))
        assert ids(again.next()[0]) == ids(seen[number + 1][0])


def test_a_short_row_s_token_sees_nothing_before_its_row(llama, tmp_path):
    """A step on a block cut in two has the gradient of a step on two rows."""
    row = Row(index=0, branches=(Tokens([5, 9, 4, 7, 8, 3, 6, 2], [1.0] * 8),))
    halves = [Row(index=i, branches=(Tokens(row.branches[0].ids[4 * i : 4 * i + 4], [1.0] * 4),)) for i in range(2)]
    ended = []
    for name, source in (
        ("cut", Growing(Dataset([row], batch=1, seed=0), [Length(4, 1)])),
        ("rows", Dataset(halves, batch=2, seed=0, shuffle=False)),
    ):
        loop = make_loop(llama, tmp_path / name, objective="pretrain")
        loop.parts.source = source
        loop.one_step()
        ended.append(torch.cat([p.detach().flatten() for p in loop.parts.scorer.parameters()]))
    assert torch.equal(*ended)


RECIPE = {
    "name": "r",
    "init": {"preset": "garzone", "config": {"hidden_size": 32, "num_hidden_layers": 1}, "tokenizer": {"vocab": 300}},
    "stages": [
        {
            "pretrain": {
                "objective": "pretrain", "method": "full", "data": str(ROOT / "recipes/examples/handbook"), "blocks": True,
                "max_tokens": 64, "steps": 8, "batch": 2, "context": [{"tokens": 16, "until": 0.5}],
            }
        }
    ],
}  # fmt: skip


def test_a_recipe_s_context_grows_and_its_mistakes_are_named(tmp_path):
    run(RECIPE, out=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in next((tmp_path / "run").rglob("metrics.jsonl")).read_text().splitlines()]
    assert [line["rows"] for line in lines] == [8, 8, 8, 8, 2, 2, 2, 2]
    for override, said in (
        ("context=[{tokens: 24, until: 0.5}]", "24 tokens do not divide blocks of max_tokens 64"),
        ("context=[{tokens: 32, until: 0.5}, {tokens: 16, until: 0.7}]", "let each length be longer"),
        ("blocks=false", "set blocks: true and max_tokens"),
        ("curriculum=loss", "leave one of them out"),
    ):
        with pytest.raises(UserError, match=said):
            run(RECIPE, [override], out=tmp_path / "other", quiet=True)
