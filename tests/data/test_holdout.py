"""A share kept out for validation: no held-out words in training, also where one text is given as two files (row D8)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bottega.core.errors import UserError
from bottega.core.types import Document, Where
from bottega.data import overlap
from bottega.data.documents import read_text
from bottega.data.holdout import hold_out
from bottega.data.near import same_texts, words_of
from bottega.data.split import split, split_file

REAL = Path(__file__).parents[3] / "shared" / "data" / "documents"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="shared/data/documents is not beside the checkout")


def prose(seed: int, words: int = 600) -> str:
    drawn = random.Random(seed).choices([f"word{i}" for i in range(500)], k=words)
    return " ".join(word + ("." if i % 12 == 11 else "") for i, word in enumerate(drawn))


def document(text: str, file: str) -> Document:
    return Document(text=text, where=Where(file, 1))


def texts(items) -> list[str]:
    return [item.text for item in items]


def test_what_stands_in_held_out_texts_is_cut_and_what_is_left_is_in_pieces():
    """13 words, the 2nd to the 9th held out: 8 words in one stretch; 'x' alone is no run of five and goes, too."""
    held = overlap.runs_of(["a b c d e f g h"])
    assert overlap.without("x a b c d e f g h y z z z z", held) == (["y z z z z"], 8, 1)
    assert overlap.without("Nothing of it stands here, at all.", held) == (["Nothing of it stands here, at all."], 0, 0)


def test_a_note_within_a_copied_stretch_goes_with_it_and_a_common_phrase_stays():
    held = overlap.runs_of(["one two three four five six seven eight nine ten"])
    with_note = (
        "Before it stand five words. One two three four five[12] six seven eight nine ten. After it five more words."
    )
    cut = overlap.without(with_note, held)
    assert cut.pieces == ["Before it stand five words. ", "After it five more words."]
    assert (cut.words, cut.stretches) == (11, 1)
    phrase = "A phrase such as one two three four five six seven is no copy."
    assert overlap.without(phrase, held) == ([phrase], 0, 0)


def test_one_text_in_two_files_is_found_and_an_excerpt_or_rows_of_one_file_are_not():
    """600 words are 596 runs; without every 60th word each of 10 places kills five runs: 546 / 596 > 0.5.
    An excerpt of 200 words shares 196 / 596 < 0.5."""
    whole = prose(1)
    noted = " ".join(word for i, word in enumerate(whole.split()) if i % 60)
    excerpt = " ".join(whole.split()[:200])
    assert same_texts([whole, noted, prose(2)], ["a.md", "a.pdf", "b.md"]) == [(0, 1)]
    assert same_texts([whole, excerpt], ["a.md", "b.md"]) == []
    assert same_texts([whole, noted], ["rows.jsonl", "rows.jsonl"]) == []


def test_documents_that_are_one_text_in_two_files_are_never_split_apart():
    found = [document(prose(n), f"{n}.md") for n in range(12)]
    copies = [document(" ".join(w for i, w in enumerate(prose(n).split()) if i % 30), f"{n}.pdf") for n in range(12)]
    parts = split([*found, *copies], seed=3, shares={"train": 0.75, "validation": 0.25})
    stems = [{item.where.file.split(".")[0] for item in part} for part in parts.values()]
    assert stems[1] and not stems[0] & stems[1]


def test_two_files_of_one_text_cannot_be_split_whole(tmp_path):
    (tmp_path / "a.md").write_text(prose(5))
    (tmp_path / "b.txt").write_text("A foreword of six more words. " + prose(5)[: -len("word")])
    with pytest.raises(UserError, match="fall into 1 groups"):
        split_file(tmp_path, seed=0, out=tmp_path / "out")


def test_of_a_text_in_two_files_the_longest_gives_the_passages_and_the_other_loses_them():
    text = "\n\n".join(prose(n, 120) for n in range(12))
    shifted = "A preface of another kind stands before it.\n\n" + text.replace("word7 ", "word7 [3] ")
    sources = [[document(text, "a.md"), document(shifted, "a.pdf")], [document(prose(99), "other.txt")]]
    apart = hold_out(sources, share=0.2, seed=0, passages=True)
    assert apart.held_out and {item.where.file for item in apart.held_out} <= {"a.pdf", "other.txt"}
    runs = overlap.runs_of(texts(apart.held_out))
    assert overlap.found_in(runs, [text]) > 0.5 * len(runs)
    assert overlap.found_in(runs, texts(item for items in apart.train for item in items)) == 0
    assert {item.where.file for item in apart.train[0]} == {"a.md", "a.pdf"}
    assert "a.md is the text of a.pdf in another form" in apart.notes[1]
    assert "stand in held-out passages too and were cut out" in apart.notes[2]


def test_one_passage_alone_cannot_be_split():
    with pytest.raises(UserError, match="fall into 1 groups of near-equal rows"):
        hold_out([[document("Six words are all there is.", "a.md")] * 2], share=0.2, seed=0, passages=True)


@needs_real
@pytest.mark.parametrize(("name", "share"), [("phoenix", 0.15), ("moo_deng", 0.15)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_passages_of_a_real_text_in_two_files_do_not_overlap(name, share, seed):
    """Before: 64 to 100 percent of the held-out five-word runs were read in training; now at most 4 percent, which are
    phrases of under eight words that the text uses twice."""
    files = [REAL / f"{name}.md", REAL / f"{name}.pdf"]
    sources = [[document(read_text(path), path.name)] for path in files]
    apart = hold_out(sources, share=share, seed=seed, passages=True)
    runs = overlap.runs_of(texts(apart.held_out))
    left = texts(item for items in apart.train for item in items)
    assert overlap.found_in(runs, left) / len(runs) <= 0.04
    held_words = sum(len(words_of(text)) for text in texts(apart.held_out))
    whole = [len(words_of(item.text)) for items in sources for item in items]
    assert 0.03 * max(whole) < held_words < 0.3 * max(whole)
    kept = sum(len(words_of(text)) for text in left)
    assert kept >= sum(whole) - 2.2 * held_words  # what is lost is the held-out words, once in each file
