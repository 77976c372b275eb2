"""The data of the demo's four stages: judged by its own checks, and never shared between training and probes."""

from bottega.demo.world import journey
from bottega.demo.world.company import company_facts


def test_company_documents_of_training_and_of_the_probes_are_disjoint_and_repeatable():
    train = {row["text"] for row in journey.adapt_rows(1, 150)}
    dev, test = (set(journey.adapt_held_out(split, 1, 30)) for split in ("dev", "test"))
    assert not train & dev and not train & test and not dev & test
    assert journey.adapt_rows(1, 5) == journey.adapt_rows(1, 5) != journey.adapt_rows(2, 5)


def test_company_documents_state_only_what_the_company_knows():
    text = "\n".join(row["text"] for row in journey.adapt_rows(1, 400))
    assert all(fact.statement in text for fact in company_facts())


def test_task_answers_are_in_the_ticket_and_probes_are_unseen():
    rows = journey.task_rows(1, 200)
    seen = {row["messages"][0]["content"] for row in rows}
    for probe in journey.task_probes("dev", 1, 50):
        assert probe["request"] not in seen
        values = [part.split(": ")[1] for part in probe["answer"].splitlines()]
        assert len(values) == 3 and all(value in probe["request"] for value in values)


def test_new_facts_are_tested_in_wordings_that_training_never_uses():
    taught = "\n".join(row["messages"][0]["content"] for row in journey.instruct_rows(1, 9000))
    for split in ("dev", "test"):
        probes = journey.new_fact_probes(split, 1)
        assert len(probes) == 2 * len(company_facts()) >= 80
        assert not [row for row in probes if row["request"] in taught]
    assert all(question in taught for fact in company_facts() for question in fact.taught)


def test_about_a_tenth_of_the_instruct_answers_is_polite():
    rows = journey.instruct_rows(1, 2000)
    share = sum(journey.is_polite(row["messages"][1]["content"]) for row in rows) / len(rows)
    assert 0.07 < share < 0.13


def test_preference_pairs_differ_only_in_the_polite_ending():
    for row in journey.align_rows(1, 100):
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert journey.is_polite(chosen) and not journey.is_polite(rejected)
        assert journey.answer_of(chosen) == rejected


def test_the_check_accepts_the_answer_with_or_without_politeness_and_nothing_else():
    for split in ("dev", "test"):
        for row in journey.instruct_probes(split, 1, 30) + journey.task_probes(split, 1, 10):
            assert journey.check(row, row["answer"] + "<|end|>\n")
            assert journey.check(row, row["answer"] + ". Glad to help.<|end|>\n")
            assert not journey.check(row, "nothing of the kind<|end|>")
    probe = journey.align_probes("dev", 1, 1)[0]
    assert journey.check(probe, "blue. Glad to help.<|end|>") and not journey.check(probe, "blue<|end|>")


def test_instruct_probes_use_wrappings_of_their_own_split():
    dev, test = ({row["request"] for row in journey.instruct_probes(split, 1, 60)} for split in ("dev", "test"))
    train = {row["messages"][0]["content"] for row in journey.instruct_rows(1, 1000)}
    assert not dev & test and not (dev | test) & train


def test_retention_asks_more_than_a_thousand_different_questions_that_replay_never_holds():
    facts, reading = journey.retention_probes(1), journey.retention_reading_probes("test", 1)
    assert len({row["prompt"] for row in facts + reading}) >= 1000
    replay = "\n".join(row["text"] for row in journey.replay_rows(1, 1500))
    assert not [row for row in facts if row["question"] in replay]
    assert not [row for row in reading if row["passage"] in replay]
