"""InstructLab's own pipeline files (version 1.0 and five-string prompt configs), read into our blocks.

Left out: what depends on their serving code (model_family, model_prompt, extra_body): the endpoint's own template is used,
and the flow's notes say what was set aside. Their templates and patterns are a stranger's: they render in the worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, meta

from bottega.core.config import load_yaml
from bottega.core.errors import UserError
from bottega.core.templates import environment, render
from bottega.core.types import Turn
from bottega.synth.blocks_parse import Parse
from bottega.synth.blocks_teacher import MOST_REPLIES
from bottega.synth.flow import Flow, Stage, stage

PARTS = ("introduction", "principles", "examples", "generation")
FOREIGN = ("model_id", "model_family", "model_prompt")
_CUT = "\x1e"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A prompt config: the five strings, and the tags around what is wanted."""

    name: str
    system: str
    rest: str
    starts: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()

    def turns(self, row: Mapping[str, Any], persona: str = "") -> list[Turn]:
        """One system and one user turn.

        Raises:
            UserError: the row lacks a column that the text names. Unsafe: the template breaks its limits.
        """
        source = self.system + _CUT + self.rest
        missing = sorted(name for name in needs(source) if name not in row)
        if missing:
            raise UserError(f"{self.name} needs the column {missing[0]!r}, which this row lacks")
        system, _, user = render(source, {name: row[name] for name in needs(source)}, trusted=False).partition(_CUT)
        turns = [Turn(role="system", content=system.strip())] if system.strip() else []
        return [*turns, Turn(role="user", content=user.strip())]

    def parse(self, outputs: Sequence[str]) -> Parse:
        return Parse(columns=tuple(outputs), starts=self.starts, ends=self.ends)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Several configs, chosen by a column of the row (ConditionalLLMBlock); the key `All` is for every row."""

    name: str
    column: str
    configs: Mapping[str, Config]

    def turns(self, row: Mapping[str, Any], persona: str = "") -> list[Turn]:
        key = "All" if "All" in self.configs else str(row.get(self.column))
        if key not in self.configs:
            raise UserError(f"{self.column} is {key[:60]!r}, for which there is no config")
        return self.configs[key].turns(row)

    def parse(self, outputs: Sequence[str]) -> Parse:
        return next(iter(self.configs.values())).parse(outputs)


@lru_cache(maxsize=64)
def needs(source: str) -> frozenset[str]:
    """The variables that a template reads."""
    try:
        return frozenset(meta.find_undeclared_variables(environment().parse(source)))
    except TemplateError as error:
        raise UserError(f"a prompt config does not parse: {error}; correct its braces") from error


def read_config(path: Path) -> Config:
    """A prompt config file.

    Raises:
        UserError: it is not there, or no mapping of texts.
    """
    data = _mapping(path)
    texts = {part: str(data.get(part) or "") for part in ("system", *PARTS)}
    rest = "\n".join(texts[part].strip("\n") for part in PARTS if texts[part].strip())
    if not rest:
        raise UserError(f"{path} has none of {', '.join(PARTS)}; a prompt config holds these texts")
    needs(texts["system"] + rest)
    starts, ends = (tuple(map(str, data.get(key) or ())) for key in ("start_tags", "end_tags"))
    return Config(name=path.stem, system=texts["system"].strip(), rest=rest, starts=starts, ends=ends)


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no prompt config {path}; a pipeline names them relative to its own folder")
    data, _ = load_yaml(path.read_bytes(), file=str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path} is no mapping of texts; a prompt config has system, introduction, generation ...")
    return data


@dataclass(kw_only=True, slots=True)
class _Reader:
    """One pipeline file while it is read."""

    path: Path
    samples: int
    notes: list[str]

    def stages(self, block: dict[str, Any]) -> list[Stage]:
        """Our stages for one of their blocks, its drop_duplicates and drop_columns behind it."""
        name, kind, config = (block.get(key) for key in ("name", "type", "config"))
        if not isinstance(name, str) or not isinstance(config, dict) or kind not in TABLE:
            raise UserError(
                f"{self.path}: the block {name!r} of type {kind!r} is none of {', '.join(TABLE)} with a config; correct it"
            )
        try:
            made = TABLE[kind](self, name, config)
        except KeyError as error:
            raise UserError(f"{self.path}: the block {name!r} lacks {error.args[0]!r} in its config; add it") from error
        if columns := block.get("drop_duplicates"):
            made.append(stage(f"{name}: duplicates", "dedupe", {"columns": list(columns)}))
        if columns := block.get("drop_columns"):
            made.append(stage(f"{name}: columns", "drop", {"columns": list(columns)}))
        return made

    def note(self, name: str, given: Mapping[str, Any], keys: Sequence[str]) -> None:
        self.notes += [f"{name}: {key} is set aside" for key in keys if given.get(key) is not None]

    def teacher(self, name: str, config: dict[str, Any], prompt: Config | Chosen) -> list[Stage]:
        gen, parser = (config.get(key) or {} for key in ("gen_kwargs", "parser_kwargs"))
        outputs = list(config["output_cols"])
        self.note(name, config, FOREIGN)
        self.note(name, gen, ("model", "seed", "extra_body"))
        if parser.get("parser_name") == "custom":
            cleanup = tuple(parser.get("parser_cleanup_tags") or ())
            reader = Parse(columns=tuple(outputs), pattern=parser["parsing_pattern"], cleanup=cleanup)
        else:
            reader = prompt.parse(outputs)
        count = gen.get("n", 1)
        options = {
            "prompt": prompt,
            "outputs": outputs,
            "parse": reader,
            "n": min(MOST_REPLIES, self.samples if count == "scaled" else int(count)),
            "max_tokens": int(gen.get("max_tokens", 4096)),
            "temperature": float(gen.get("temperature", 0.0)),
            "columns": {"num_samples": (config.get("batch_kwargs") or {}).get("num_samples", 1)},
        }
        return [stage(name, "generate", options)]

    def llm(self, name: str, config: dict[str, Any]) -> list[Stage]:
        return self.teacher(name, config, read_config(self.path.parent / config["config_path"]))

    def conditional(self, name: str, config: dict[str, Any]) -> list[Stage]:
        configs = {str(key): read_config(self.path.parent / path) for path, key in config["config_paths"]}
        if len({(one.starts, one.ends) for one in configs.values()}) > 1 and not config.get("parser_kwargs"):
            raise UserError(f"{self.path}: the configs of {name!r} have different tags; give the block a pattern")
        return self.teacher(name, config, Chosen(name=name, column=config["selector_column_name"], configs=configs))

    def filter(self, name: str, config: dict[str, Any]) -> list[Stage]:
        options = {
            "column": config["filter_column"],
            "value": config["filter_value"],
            "operation": config["operation"],
            "convert": config.get("convert_dtype") or "",
            "default": config.get("default_value"),
        }
        return [stage(name, "filter", options)]

    def populate(self, name: str, config: dict[str, Any]) -> list[Stage]:
        end = (config.get("post_fix") or "") + ".yaml"
        paths = [self.path.parent / path for path in config["config_paths"]]
        values = {path.stem: _mapping(path.with_name(path.stem + end)) for path in paths}
        return [stage(name, "populate", {"column": config["column_name"], "values": values})]

    def iterate(self, name: str, config: dict[str, Any]) -> list[Stage]:
        inner = dict(config.get("block_kwargs") or {})
        block = {"name": inner.pop("block_name", name), "type": config["block_type"], "config": inner}
        return [stage(name, "iterate", {"times": int(config["num_iters"])}), *self.stages(block)]


def _plain(kind: str, **names: str) -> Any:
    """A block that needs only other names for its options."""
    return lambda reader, name, config: [stage(name, kind, {ours: config[theirs] for ours, theirs in names.items()})]


TABLE = {
    "LLMBlock": _Reader.llm,
    "ConditionalLLMBlock": _Reader.conditional,
    "FilterByValueBlock": _Reader.filter,
    "SamplePopulatorBlock": _Reader.populate,
    "IterBlock": _Reader.iterate,
    "CombineColumnsBlock": _plain("combine", columns="columns", output="output_col"),
    "FlattenColumnsBlock": _plain("flatten", columns="var_cols", value="value_name", label="var_name"),
    "DuplicateColumnsBlock": _plain("duplicate", columns="columns_map"),
    "RenameColumnsBlock": _plain("rename", columns="columns_map"),
    "SelectorBlock": _plain("select", choices="choice_map", choice="choice_col", output="output_col"),
    "SetToMajorityValueBlock": _plain("majority", column="col_name"),
}


def read_pipeline(data: dict[str, Any], path: Path, *, samples: int) -> Flow:
    """A pipeline file of InstructLab.

    Raises:
        UserError: another version, a block that is not known, or a config that is missing.
    """
    if str(data.get("version")) != "1.0":
        raise UserError(f"{path} has version {data.get('version')!r}; InstructLab's pipelines are read in version 1.0")
    blocks = data.get("blocks")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(one, dict) for one in blocks):
        raise UserError(f"{path} has no list of blocks; give it some")
    reader = _Reader(path=path, samples=samples, notes=[])
    stages = [made for block in blocks for made in reader.stages(block)]
    outputs = [str(name) for block in blocks for name in (block.get("config") or {}).get("output_cols", ())]
    user, assistant, form = "question", "response", "messages"
    if outputs == ["output"]:  # the simple pipelines write a question and its answer as one text
        split = {"column": "output", "outputs": ["question", "response"], "pattern": r"\A(.*?\?)\s*(.+)\Z"}
        stages.append(stage("split", "parse", split))
    elif outputs and outputs[0].endswith("_question"):
        user, assistant, form = outputs[0], outputs[1], "choices"
        stages.append(stage("choices", "options", {"question": user, "answer": assistant}))
    auxiliary = (data.get("datamixing") or {}).get("auxiliary_instructions") or {}
    return Flow(
        name=f"{path.parent.name}/{path.stem}",
        about=f"InstructLab's pipeline {path.name}",
        stages=tuple(stages),
        kinds=kinds_of(path.stem),
        form=form,  # type: ignore[arg-type]
        user=user,
        assistant=assistant,
        auxiliary={str(view): tuple(map(str, texts)) for view, texts in auxiliary.items()},
        notes=tuple(reader.notes),
        trusted=False,
    )


def kinds_of(stem: str) -> tuple[str, ...]:
    """Which leaves a pipeline is for, by InstructLab's names of the files."""
    table = {"knowledge": ("knowledge",), "mmlu_bench": ("knowledge",), "grounded_skills": ("grounded_skill",)}
    return table.get(
        stem, ("freeform_skill",) if stem == "freeform_skills" else ("knowledge", "grounded_skill", "freeform_skill")
    )
