"""Beam search: the tokens and scores of transformers' own, for every rule of when to stop."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bottega.core.errors import UserError
from bottega.models.beam import Search, beam_search
from bottega.models.generate import Generator
from tests.models.tiny import tiny_model

PROMPTS = [[1, 9, 40, 77, 200, 31, 8], [1, 50], [1, 300, 12, 13], [250]]
NEW = 10


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tiny_model("llama", tmp_path_factory.mktemp("llama"))
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def theirs(model, prompt, ends, **options):
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, max_new_tokens=NEW,
        pad_token_id=0, eos_token_id=ends, return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    rows = [row[len(prompt) :].tolist() for row in out.sequences]
    cut = [row[: next((at + 1 for at, token in enumerate(row) if token in ends), NEW)] for row in rows]
    return cut, out.sequences_scores.tolist()


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_tokens_and_scores_equal_those_of_transformers(early_stopping, length_penalty, loaded):
    model, tokenizer = loaded
    ends = [2, *range(60, 260)]  # many tokens end a reply, so that beams finish at different steps
    how = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    found = beam_search(Generator(model, tokenizer), PROMPTS, beams=3, n=3, max_tokens=NEW, stop_ids=ends, **how)
    lengths = set()
    for prompt, beams in zip(PROMPTS, found):
        rows, scores = theirs(model, prompt, ends, num_beams=3, num_return_sequences=3, **how)
        assert [list(beam.reply.ids) for beam in beams] == rows
        assert [beam.score for beam in beams] == pytest.approx(scores, abs=2e-4)
        for beam in beams:
            expected = sum(beam.reply.logps) / len(beam.reply.ids) ** length_penalty
            assert beam.score == pytest.approx(expected, abs=1e-4)
            assert beam.reply.finish == ("stop" if beam.reply.ids[-1] in ends else "length")
            lengths.add(len(beam.reply.ids))
    assert len(lengths) > 1 or length_penalty == 2.0


def test_one_beam_is_greedy_and_the_batch_changes_nothing(loaded):
    generator = Generator(*loaded)
    greedy = generator.sample(PROMPTS, max_tokens=NEW, stop_ids=())
    one = beam_search(generator, PROMPTS, beams=1, max_tokens=NEW, stop_ids=())
    assert [beams[0].reply.ids for beams in one] == [reply.ids for reply in greedy]
    few = beam_search(generator, PROMPTS, beams=4, max_tokens=NEW, stop_ids=(), batch=4)
    many = beam_search(generator, PROMPTS, beams=4, max_tokens=NEW, stop_ids=())
    assert [beams[0].reply.ids for beams in few] == [beams[0].reply.ids for beams in many]


def test_a_search_keeps_what_ends_and_goes_on_with_what_does_not():
    """Two beams, end token 9. Best continuations: 9 (-1.0), 5 (-1.2), 6 (-2.0): the reply (9) is kept at -1.0 / 1, and 5
    and 6 go on. Then from 5: 9 at -1.5, in the first two, so (5, 9) is kept at -1.5 / 2 = -0.75, before (9)."""
    search = Search(number=0, beams=2, max_tokens=5, length_penalty=1.0, early_stopping=False, stop_ids={9})
    assert search.step([(-1.0, 0, 9), (-1.2, 0, 5), (-2.0, 0, 6), (-3.0, 0, 7)], [-1.0, -1.2, -2.0, -3.0]) == [
        (0, 5),
        (0, 6),
    ]
    # both are finished now, and the best that goes on, -1.7 / 2 = -0.85, beats the worse of them, -1.0
    assert search.step([(-1.5, 0, 9), (-1.7, 0, 4), (-2.1, 1, 3), (-4.0, 1, 2)], [-0.3, -0.5, -0.1, -2.0]) == [
        (0, 4),
        (1, 3),
    ]
    assert [(score, partial.ids) for score, partial in search.finished] == [(-0.75, (5, 9)), (-1.0, (9,))]


def test_numbers_that_make_no_sense_are_refused(loaded):
    with pytest.raises(UserError, match="n is 3 and beams 2"):
        beam_search(Generator(*loaded), PROMPTS, beams=2, n=3)
    with pytest.raises(UserError, match="early_stopping is 'soon'"):
        beam_search(Generator(*loaded), PROMPTS, early_stopping="soon")
