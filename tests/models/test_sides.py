"""Encoder-decoders: both sides of a row against transformers' own loss, and decoding against its generate."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from bottega.core.errors import UserError
from bottega.core.types import Attached, Conversation, Preference, Row, Tokens, Turn
from bottega.data import both_sides
from bottega.data.chat import Template
from bottega.data.prepare import Plan
from bottega.evals.engine import Engine
from bottega.models import kinds
from bottega.models.beam import beam_search
from bottega.models.generate import Generator
from bottega.models.layout import lay
from bottega.models.load import load
from bottega.models.score import Scorer

FAMILIES = ("t5", "bart")
PROMPTS = [[40, 41, 42, 43, 44, 45], [50, 51], [60, 61, 62]]


def scorer_of(loaded):
    attached = Attached(name="read", model=loaded.model, groups=[], save=lambda folder: None, merge=None)
    return Scorer(attached, vocabulary=320)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_padded_rows_is_transformers_own_row_by_row(saved, family):
    loaded = load(saved(family))
    start, end = kinds.start_of(loaded.model.config), kinds.end_of(loaded.model.config)
    answers = [[70, 71, 72, end], [80, end], [90, 91, end]]
    rows = [
        Row(
            index=i,
            prefix=Tokens([*read, end], [0.0] * (len(read) + 1)),
            branches=(Tokens([*start, *write], [0.0] * len(start) + [1.0] * len(write)),),
        )
        for i, (read, write) in enumerate(zip(PROMPTS, answers))
    ]
    layout, targets = lay(rows, packed=False, pad_id=loaded.tokenizer.pad_token_id, sides=True)
    with torch.no_grad():
        mine = scorer_of(loaded)(layout, targets, ("nll", "logp"))
    plain = AutoModelForSeq2SeqLM.from_pretrained(saved(family))
    total = 0.0
    with torch.no_grad():
        for read, write in zip(PROMPTS, answers):
            out = plain(
                input_ids=torch.tensor([[*read, end]]),
                decoder_input_ids=torch.tensor([[*start, *write[:-1]]]),
            )
            logp = torch.log_softmax(out.logits[0, len(start) - 1 :], -1)
            total -= float(logp.gather(1, torch.tensor(write)[:, None]).sum())
    assert float(mine["nll"]) == pytest.approx(total, rel=1e-5)
    assert len(mine["logp"]) == sum(map(len, answers))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_beam_replies_are_those_of_transformers_alone_or_in_a_batch(saved, family):
    loaded = load(saved(family))
    generator, end = Generator(loaded.model, loaded.tokenizer), kinds.end_of(loaded.model.config)
    together = generator.sample(PROMPTS, max_tokens=8)
    assert generator.chosen_way() == "sides"
    beams = beam_search(generator, PROMPTS, beams=3, max_tokens=6)
    for prompt, reply, found in zip(PROMPTS, together, beams):
        assert generator.sample([prompt], max_tokens=8)[0].ids == reply.ids
        ids = torch.tensor([[*prompt, end]])
        wanted = loaded.model.generate(ids, max_new_tokens=8, do_sample=False, num_beams=1)[0].tolist()
        assert list(reply.ids) == wanted[1 : 1 + len(reply.ids)] and len(wanted) <= 1 + 8
        best = loaded.model.generate(ids, max_new_tokens=6, do_sample=False, num_beams=3)[0].tolist()
        assert list(found[0].reply.ids) == best[1 : 1 + len(found[0].reply.ids)]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_evaluation_scores_continuations_as_written_text(saved, family):
    loaded = load(saved(family))
    engine = Engine(loaded.model, loaded.tokenizer)
    prefix, branches = Tokens([40, 41], [0.0] * 2), (Tokens([70, 71], [1.0, 1.0]), Tokens([80], [1.0]))
    found = engine.logps([Row(index=0, prefix=prefix, branches=branches)])[0]
    assert [len(one) for one in found] == [2, 1]
    end, start = kinds.end_of(loaded.model.config), kinds.start_of(loaded.model.config)
    with torch.no_grad():
        out = loaded.model(
            input_ids=torch.tensor([[40, 41, end]]), decoder_input_ids=torch.tensor([[*start, 70]])
        ).logits[0, len(start) - 1 :]
    wanted = torch.log_softmax(out, -1).gather(1, torch.tensor([[70], [71]]))[:, 0].numpy()
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_a_chat_is_read_up_to_each_answer_and_a_preference_has_two_written_sides(saved):
    tokenizer = load(saved("t5")).tokenizer
    template = Template.find("concat", tokenizer)
    talk = Conversation(
        turns=(
            Turn(role="user", content="Who keeps the keys?"),
            Turn(role="assistant", content="Anna."),
            Turn(role="user", content="And the saw?"),
            Turn(role="assistant", content="The workshop."),
        )
    )
    plan = Plan(kind="chat", max_tokens=64)
    made, intake = both_sides.rows([talk], tokenizer, template, plan=plan, start=(0,), end=2)
    text = [tokenizer.decode(list(row.prefix.ids)) for row in made]
    assert len(made) == 2 and "saw" not in text[0] and "Anna" in text[1]
    written = list(map(int, made[1].branches[0].ids))
    assert tokenizer.decode(written[1:-1]) == "The workshop." and (written[0], written[-1]) == (0, 2)
    last, _ = both_sides.rows(
        [talk], tokenizer, template, plan=Plan(kind="chat", max_tokens=64, mask="last"), start=(0,), end=2
    )
    assert len(last) == 1
    pair = Preference(
        prompt=(Turn(role="user", content="Who?"),),
        chosen=(Turn(role="assistant", content="Anna."),),
        rejected=(Turn(role="assistant", content="Nobody knows."),),
    )
    both, _ = both_sides.rows(
        [pair], tokenizer, template, plan=Plan(kind="preference", max_tokens=64), start=(0,), end=2
    )
    assert len(both[0].branches) == 2 and intake.taken == 2
    with pytest.raises(UserError, match="has a side of"):
        both_sides.rows([talk], tokenizer, template, plan=Plan(kind="chat", max_tokens=4), start=(0,), end=2)
    with pytest.raises(UserError, match="trains what is read"):
        both_sides.rows(
            [talk], tokenizer, template, plan=Plan(kind="chat", max_tokens=64, mask="all"), start=(0,), end=2
        )
