"""Commands of a community: `bottega taxonomy new, migrate, contribute, triage`.

Left out: their functions (synth/taxonomy_new.py, synth/taxonomy_contribute.py, workshop/triage.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bottega.cli.parts import call, json_flag, taxonomy, verb

KINDS = ("knowledge", "grounded_skill", "freeform_skill")


@verb(
    taxonomy,
    "new",
    "bottega taxonomy new my-taxonomy",
    "bottega taxonomy new my-taxonomy --answers recipes/examples/leaf.yaml",
)
@click.argument("path")
@click.option("--answers", metavar="FILE", help="YAML or JSON with all answers; default: you are asked.")
@click.option("--dry-run", is_flag=True, help="Show the files, write nothing.")
@json_flag
def new_command(path: str, answers: str | None, as_json: bool, dry_run: bool) -> int:
    """Write a leaf and its attribution from a few questions; nothing is written that `check` would refuse."""
    given = _read(answers) if answers is not None else _asked()
    return call("taxonomy new", as_json=as_json, root=path, answers=given, dry_run=dry_run)


def _read(name: str) -> dict[str, Any]:
    from bottega.core.errors import UserError
    from bottega.core.strictyaml import load_yaml

    path = Path(name)
    if not path.is_file():
        raise UserError(f"there is no file {path} with answers; leave --answers out to be asked")
    found, _ = load_yaml(path.read_bytes(), file=str(path))
    if not isinstance(found, dict):
        raise UserError(f"{path} is no mapping of answers; recipes/examples/leaf.yaml shows one")
    return found


def _asked() -> dict[str, Any]:
    """The answers of a person; a text that begins with @ is read from the file of that name."""
    found: dict[str, Any] = {"kind": click.prompt("Kind", type=click.Choice(KINDS), default="freeform_skill", err=True)}
    knowledge, grounded = found["kind"] == "knowledge", found["kind"] != "freeform_skill"
    found["branch"] = _line("Folder, such as arts/music/violin")
    found["created_by"] = _line("Your name, as contributor")
    found["about"] = _line("An outline of the document" if knowledge else "What the task is")
    if knowledge:
        found["domain"] = _line("Domain, such as astronomy")
        found["repo"] = _line("Where the document is (a git address, or a folder)")
        found["commit"] = _line("Which commit of it")
        found["patterns"] = _line("Which files, such as *.md").split()
    seeds: list[dict[str, Any]] = []
    while len(seeds) < 5 or click.confirm("One more seed?", default=False, err=True):
        click.echo(f"Seed {len(seeds) + 1} (five at least)", err=True)
        seed: dict[str, Any] = {"context": _line("  Context (@FILE reads one)")} if grounded else {}
        if knowledge:
            seed["pairs"] = [_pair(number) for number in range(1, 4)]
        seeds.append(seed if knowledge else {**seed, **_pair(0)})
    found["seeds"] = seeds
    click.echo("Where the texts are from (your own writing counts)", err=True)
    found["works"] = [
        {
            "title": _line("  Title"),
            "link": click.prompt("  Link", default="", show_default=False, err=True),
            "licence": _line("  Licence, such as CC-BY-4.0"),
            "authors": _line("  Authors"),
        }
    ]
    return found


def _pair(number: int) -> dict[str, str]:
    which = f" {number}" if number else ""
    return {"question": _line(f"  Question{which}"), "answer": _line(f"  Answer{which}")}


def _line(what: str) -> str:
    said: str = click.prompt(what, err=True)
    if said.startswith("@") and Path(said[1:]).is_file():
        return Path(said[1:]).read_text(encoding="utf-8").strip() + "\n"
    return said


@verb(taxonomy, "migrate", "bottega taxonomy migrate my-taxonomy --dry-run")
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Say what would be done, write nothing.")
@json_flag
def migrate_command(path: str, as_json: bool, **options: Any) -> int:
    """Bring skills of version 1 and 2 to 3, and write skeletons for old knowledge; says what is still to do."""
    return call("taxonomy migrate", as_json=as_json, path=path, **options)


@verb(
    taxonomy,
    "contribute",
    "bottega taxonomy contribute my-taxonomy --remote origin",
    "bottega taxonomy contribute my-taxonomy --patch violin.patch",
)
@click.argument("path")
@click.option("--base", default="origin/main", show_default=True, metavar="REF", help="Where it is meant to go.")
@click.option("--branch", metavar="NAME", help="The new branch; default: made of the leaf's path.")
@click.option("--message", metavar="TEXT", help="The commit's title.")
@click.option("--only", multiple=True, metavar="LEAF", help="This changed leaf alone; repeat it.")
@click.option("--remote", metavar="NAME", help="Push the branch there.")
@click.option("--patch", metavar="FILE", help="Also write the commit as a patch.")
@json_flag
def contribute_command(path: str, as_json: bool, **options: Any) -> int:
    """Changed leaves as a signed-off commit on a branch of their own, and a request's text; your checkout stays as it is."""
    return call("taxonomy contribute", as_json=as_json, path=path, **options)


@verb(taxonomy, "triage", "bottega taxonomy triage my-taxonomy --base origin/main --data generated --out triage.html")
@click.argument("path")
@click.option(
    "--base", default="origin/main", show_default=True, metavar="REF", help="Against what; `empty`: all leaves."
)
@click.option("--data", metavar="DIR", help="What `bottega synth` made of the leaves.")
@click.option("--before", metavar="FILE", help="A scorecard of the model before.")
@click.option("--after", metavar="FILE", help="A scorecard of the model after.")
@click.option("--out", default="triage.html", show_default=True, metavar="FILE")
@json_flag
def triage_command(path: str, as_json: bool, **options: Any) -> int:
    """One page for the maintainer: validation, licences, overlap, generated rows, scores before and after."""
    return call("taxonomy triage", as_json=as_json, path=path, **options)
