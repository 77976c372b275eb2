"""Every block of commands in README.md, CONTRIBUTING.md and docs/ works as written.

A comment in front of a block says how it is checked: `<!-- run: fast -->` (default tests), `<!-- run: slow -->`, or
`<!-- run: parse -->` (words and options only: it needs a network, a terminal or hours). More after semicolons: `with: key=value ...`
is added to each `bottega run` of the block, to make it small; `model: tiny` puts a tiny random model in the place of the bundled
base; `check: may fail` allows exit code 1 (a check that came out negative). `<!-- file: NAME -->` in front of a yaml block: it is
written to that file first. The blocks of a page run in order, in one copy of what a checkout holds.
Left out: what the commands print.
"""

from __future__ import annotations

import io
import re
import runpy
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from bottega import cli

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").rglob("*.md") if page.name != "HOUSE.md")])
"""All pages but the plan of the house, whose block shows signatures."""
BLOCK = re.compile(
    r"^(?:<!-- (?P<how>run: [^\n]*?) -->\n)?```(?P<kind>bash|python|console|sh)\n(?P<text>.*?)^```$", re.M | re.S
)
INLINE = re.compile(r"`(bottega(?: [^`]+)?)`")
FILE = re.compile(r"^<!-- file: (\S+) -->\n```yaml\n(.*?)^```$", re.M | re.S)
HOWS = ("fast", "slow", "parse")
SAMPLES = {"chats.jsonl": "chats.jsonl", "pairs.jsonl": "pairs.jsonl", "docs": "handbook"}
"""Names that the pages use for the reader's own files, and the examples that stand in for them."""


@dataclass(frozen=True)
class Block:
    """A fenced block and what its comment says."""

    kind: str
    text: str
    how: str
    more: tuple[str, ...] = ()
    tiny: bool = False
    exits: tuple[int, ...] = (0,)

    @property
    def lines(self) -> list[str]:
        """The commands: without comments and empty lines, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [
            line for raw in joined.splitlines() if (line := raw.split(" #")[0].strip()) and not line.startswith("#")
        ]


def blocks(page: Path) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        said = dict(part.strip().split(": ", 1) for part in (match["how"] or "run: missing").split(";"))
        more = tuple(said.get("with", "").split())
        exits = (0, 1) if "check" in said else (0,)
        found.append(Block(match["kind"], match["text"], said["run"], more, said.get("model") == "tiny", exits))
    return found


WITH_BLOCKS = [page for page in PAGES if blocks(page)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_every_block_says_how_it_is_checked_and_its_words_exist(page):
    for block in blocks(page):
        assert block.how in HOWS, f"{name(page)}: a block without `<!-- run: ... -->`:\n{block.text}"
        if block.kind == "python":
            compile(block.text, str(page), "exec")
            continue
        for line in block.lines:
            check_words(line, page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_within_a_sentence_are_verbs_with_their_options(page):
    for words in INLINE.findall(page.read_text(encoding="utf-8")):
        parse(shlex.split(words.replace("[", "").replace("]", ""))[1:], page)


def check_words(line: str, page: Path) -> None:
    """A line of a block: a verb of ours with its options, or a target of the Makefile."""
    for part in line.split(" | "):
        words = shlex.split(part)
        if words[0] == "make":
            targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
            assert words[1] in targets, f"{name(page)}: {line}"
        elif words[0] == "bottega":
            parse(words[1:], page)
        else:
            assert words[0] in ("echo", "cat", "git", "cd", "pip", "python", "torchrun"), f"{name(page)}: {line}"


def parse(words: list[str], page: Path) -> None:
    """Walk to the verb and parse its options, running nothing."""
    command: click.Command = cli.cli
    context = click.Context(command, info_name="bottega")
    words = [word for word in words if word != "--offline"]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{name(page)}: there is no verb {' '.join(words)}"
        command = command.commands[words[0]]
        context, words = click.Context(command, info_name=words[0], parent=context), words[1:]
    if {"--help", "--version"} & set(words):
        return
    if isinstance(command, click.Group):  # a sentence about the verb as such
        return
    if not words and not any(p.required for p in command.params):
        return
    if words:
        command.parse_args(context, list(words))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A tiny random model, for pages whose commands the bundled base would make long."""
    from tests.models.tiny import tiny_model

    return tiny_model("llama", tmp_path_factory.mktemp("tiny"), max_position_embeddings=1024)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with what a reader's checkout has: recipes, the examples under the names of the pages, shared beside it."""
    here = tmp_path / "checkout"
    shutil.copytree(ROOT / "recipes", here / "recipes")
    for theirs, ours in SAMPLES.items():
        (here / theirs).symlink_to(here / "recipes" / "examples" / ours)
    if SHARED.is_dir():
        (tmp_path / "shared").symlink_to(SHARED)
    monkeypatch.chdir(here)
    return here


def runs(hows: tuple[str, ...]) -> list[Path]:
    return [page for page in WITH_BLOCKS if any(block.how in hows for block in blocks(page))]


@pytest.mark.parametrize("page", runs(("fast",)), ids=name)
def test_the_commands_of_a_page_run_as_written(page, checkout, request, monkeypatch):
    run_page(page, ("fast",), request, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", runs(("slow",)), ids=name)
def test_the_long_commands_of_a_page_run_as_written(page, checkout, request, monkeypatch):
    run_page(page, ("fast", "slow"), request, monkeypatch)


def run_page(page: Path, hows: tuple[str, ...], request, monkeypatch) -> None:
    chosen = [block for block in blocks(page) if block.how in hows]
    if any("../shared" in block.text for block in chosen) and not SHARED.is_dir():
        pytest.skip("the real inputs are not beside the checkout")
    if (
        any(not block.tiny for block in chosen)
        and not (ROOT / "bottega" / "models" / "garzone" / "config.json").is_file()
    ):
        pytest.skip("the bundled base is not there yet")
    for path, text in FILE.findall(page.read_text(encoding="utf-8")):
        Path(path).write_text(text, encoding="utf-8")
    for block in chosen:
        model = request.getfixturevalue("stand_in") if block.tiny else None
        if block.kind == "python":
            script = Path("block.py")
            script.write_text(block.text.replace('"garzone"', repr(str(model))) if model else block.text)
            runpy.run_path(str(script))
            continue
        for line in block.lines:
            run_line(line, block, model, monkeypatch)


def run_line(line: str, block: Block, model: Path | None, monkeypatch) -> None:
    """One command through the door, in this process; `echo TEXT |` in front of it is its standard input."""
    said, pipe, command = line.rpartition(" | ")
    if pipe:
        words = shlex.split(said)
        assert words[0] == "echo", line
        monkeypatch.setattr("sys.stdin", io.StringIO(" ".join(words[1:]) + "\n"))
    words = shlex.split(command)
    if words[0] == "python" and words[1].startswith("recipes/"):  # example data of a recipe
        runpy.run_path(words[1], run_name="__main__")
        return
    assert words[0] == "bottega", f"only verbs of ours are run here: {line}"
    words = words[1:]
    if words[0] == "run" and "--dry-run" not in words:
        words += block.more
    if model is not None:
        words = [str(model) if word == "garzone" else word for word in words]
        words += [f"model={model}"] if words[0] == "run" and not any(w.startswith("model=") for w in words) else []
        words += ["--model", str(model)] if words[:2] == ["data", "inspect"] and "--model" not in words else []
    code = cli.door(words)
    assert code in block.exits, f"{line}: exit code {code}"
