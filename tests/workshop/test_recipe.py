"""Recipes: forms, inheritance, overrides, and every mistake with its place, before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from bottega.core.config import dump_yaml
from bottega.core.errors import UserError
from bottega.train import settings
from bottega.workshop import recipe

GOOD = """
name: support-bot
model: garzone
stages:
  - adapt: {objective: pretrain, data: docs/, method: {name: lora, rank: 32}}
  - instruct: {objective: sft, then: merge, data: [{path: chats.jsonl, weight: 0.7}, {path: replay.jsonl, weight: 0.3}]}
  - align: {objective: {name: dpo, beta: 0.1}, data: prefs.jsonl, lr: 1e-4}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("docs/a.txt", "chats.jsonl", "replay.jsonl", "prefs.jsonl"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.jinja").write_text("")
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def mistakes(text, *overrides):
    Path("bad.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        recipe.load("bad.yaml", overrides)
    return str(error.value).splitlines()


def one(stage):
    return f"name: x\nmodel: garzone\nstages:\n  - s: {stage}\n"


def test_the_recipe_of_the_interface_page_loads_with_everything_written_out(folder):
    made = recipe.load("good.yaml")
    adapt, instruct, align = made.stages
    assert adapt.method.options["rank"] == 32 and adapt.over_length == "split" and adapt.then == "merge"
    assert [part.weight for part in instruct.data] == [0.7, 0.3] and instruct.epochs == 1.0
    assert align.lr == 1e-4 and align.objective.options["beta"] == 0.1 and align.then == "continue"
    assert adapt.lr == 2e-4 and adapt.loop["schedule"] == "cosine"
    assert adapt.data[0].path == str(folder / "docs")


def test_the_resolved_recipe_is_a_recipe_and_means_the_same_from_another_folder(folder):
    made = recipe.load("good.yaml")
    target = folder / "runs" / "support-bot"
    target.mkdir(parents=True)
    text = dump_yaml(recipe.to_plain(made, target))
    assert str(folder) not in text
    (target / "recipe.yaml").write_text(text)
    assert recipe.load(target / "recipe.yaml") == made


def test_a_mapping_is_a_recipe_too(folder):
    stage = {"objective": "sft", "data": "chats.jsonl"}
    made = recipe.load({"name": "x", "model": "garzone", "stages": [{"s": stage}]}, ["s.batch=4"])
    assert made.stages[0].batch == 4


def test_a_recipe_inherits_from_one_file_stages_by_name_and_paths_from_where_they_stand(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "mine.yaml").write_text("base: ../good.yaml\nname: mine\nstages:\n  - align: {lr: 5e-5}\n")
    made = recipe.load(folder / "sub" / "mine.yaml")
    assert made.name == "mine" and [s.name for s in made.stages] == ["adapt", "instruct", "align"]
    assert made.stages[2].lr == 5e-5 and made.stages[2].data[0].path == str(folder / "prefs.jsonl")
    (folder / "sub" / "third.yaml").write_text("base: mine.yaml\n")
    with pytest.raises(UserError, match="inherits from one other file"):
        recipe.load(folder / "sub" / "third.yaml")


def test_all_mistakes_are_shown_together_each_with_its_line(folder):
    found = mistakes(
        """name: support bot
model: garzone
sed: 1
stages:
  - adapt: {objective: pretran, data: docs, method: {name: lora, rnk: 32}}
  - instruct:
      objective: sft
      method: {name: lora, rank: high}
      stepss: 3
      schedule: cosin
      lr: -1
      data: chats.jsonl
"""
    )
    assert found == [
        "bad.yaml:5:24: there is no objective 'pretran'; did you mean pretrain?",
        "bad.yaml:5:66: lora has no option 'rnk'; did you mean rank?",
        "bad.yaml:9:7: unknown key 'stepss'; did you mean steps?",
        "bad.yaml:10:17: there is no schedule 'cosin'; did you mean cosine?",
        "bad.yaml:8:34: rank is 'high', but needs a whole number",
        "bad.yaml:3:1: unknown key 'sed'; did you mean seed?",
        "bad.yaml:11:11: lr is -1.0, but must be above 0",
    ]


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("{objective: sft, data: chatz.jsonl}", "there is no file or folder chatz.jsonl"),
        ("{objective: sft, data: chats.jsonl, eval_every: 5}", "needs rows to evaluate on"),
        ("{objective: sft, data: chats.jsonl, steps: 5, epochs: 1}", "give one of them"),
        ("{objective: sft, data: [{path: chats.jsonl, weight: 1}, replay.jsonl]}", "some have none"),
        ("{objective: sft, data: chats.jsonl, method: full, then: stack}", "passes an adapter on"),
        ("{objective: dpo, data: prefs.jsonl, over_length: split}", "pairs cannot be split"),
        ("{objective: sft, data: chats.jsonl, method: {name: lora, rank: 0}}", "rank 0 is outside"),
        ("{objective: sft, data: chats.jsonl, validation: {share: 0.1, data: [replay.jsonl]}}", "not both"),
        ("{objective: sft, data: ftp://host/x.jsonl}", "which is not read; known: sqlite:"),
        ("{objective: ppo, data: prefs.jsonl}", "ppo needs a reward"),
        ("{objective: sft, data: chats.jsonl, mask: from:x}", "there is no mask 'from:x'; choose assistant, last"),
        ("{objective: sft, data: chats.jsonl, mask: from:²}", "there is no mask 'from:²'"),
        ("{objective: sft, data: chats.jsonl, mask: asistant}", "there is no mask 'asistant'"),
        ("{objective: dpo, data: prefs.jsonl, mask: all}", "would train the prompt of preferences"),
        ("{objective: sft, data: chats.jsonl, template: chatlm}", "there is no template 'chatlm'; choose one of"),
        ("{objective: sft, data: chats.jsonl, template: empty.jinja}", "empty.jinja holds no template"),
        ("{objective: sft, data: chats.jsonl, blocks: true}", "blocks: true is for pretrain, not sft"),
        ("{objective: sft, data: chats.jsonl, step_in_backward: true, spikes: warn}", "clip 1 does not go with"),
        ("{objective: sft, data: chats.jsonl, step_in_backward: true, clip: 0}", "spikes skip does not go with"),
        ("{objective: sft, data: chats.jsonl, optimizer: schedule_free, schedule: wsd}", "takes no schedule"),
        ("{objective: sft, data: chats.jsonl, recompute_keep: products}", "write checkpointing: true"),
        ("{objective: sft, data: chats.jsonl, precision: fp61}", "did you mean fp16"),
        ("{objective: sft, data: chats.jsonl, optimizer: adam}", "there is no optimizer 'adam'; did you mean adamw?"),
        ("{objective: sft}", "the key 'data' is missing"),
        ("{data: chats.jsonl}", "the key 'objective' is missing"),
        ("{objective: dpoo, data: prefs.jsonl}", "there is no objective 'dpoo'; did you mean dpo?"),
        ("{objective: zzzz, data: prefs.jsonl, mask: all, blocks: true}", "there is no objective 'zzzz'"),
        ("{objective: sft, data: chats.jsonl, method: loar}", "there is no method 'loar'; did you mean lora?"),
    ],
)
def test_a_stage_that_cannot_work_is_refused_with_the_remedy(folder, stage, said):
    found = mistakes(one(stage))
    assert len(found) == 1 and said in found[0] and found[0].startswith("bad.yaml:4:")


def test_an_optimizer_brings_its_own_defaults_and_a_missing_library_is_named(folder, monkeypatch):
    """Lion: beta2 0.99 and a fifth of the usual rate of LoRA, 2e-4; schedule-free: no schedule."""
    lion = recipe.load("good.yaml", ["adapt.optimizer=lion"]).stages[0]
    assert lion.loop["beta2"] == 0.99 and lion.lr == pytest.approx(4e-5)
    assert recipe.load("good.yaml", ["adapt.optimizer=schedule_free"]).stages[0].loop["schedule"] == "constant"
    find = settings.importlib.util.find_spec
    monkeypatch.setattr(
        settings.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    (found,) = mistakes(one("{objective: sft, data: chats.jsonl, optimizer: adamw8bit}"))
    assert "bitsandbytes, which is not installed: pip install 'bottega[quant]'" in found


def test_overrides_reach_any_field_and_unknown_ones_ask_did_you_mean(folder):
    made = recipe.load(
        "good.yaml", ["align.objective.beta=0.2", "stages.adapt.method.rank=4", "seed=3", "evaluate={tasks: [a]}"]
    )
    assert made.stages[2].objective.options["beta"] == 0.2 and made.stages[0].method.options["rank"] == 4
    assert made.seed == 3 and made.evaluate.tasks == ("a",)
    for override, said in {
        "align.lrr=1": "did you mean lr",
        "lr=2": "which stage? write adapt.lr=... or instruct.lr=... or align.lr=...",
        "sedd=2": "did you mean seed",
        "stages.foo.lr=2": "there is no stage 'foo'",
        "align.objective.betta=1": "did you mean beta",
        "seed": "is not key=value",
    }.items():
        with pytest.raises(UserError, match=said.replace("?", r"\?")):
            recipe.load("good.yaml", [override])


def test_a_path_in_an_override_is_seen_from_where_it_is_typed(folder, monkeypatch):
    (folder / "else").mkdir()
    (folder / "else" / "new.jsonl").write_text("x")
    monkeypatch.chdir(folder / "else")
    made = recipe.load("../good.yaml", ["align.data=new.jsonl"])
    assert made.stages[2].data[0].path == str(folder / "else" / "new.jsonl")


def test_a_secret_never_enters_the_resolved_recipe(folder, monkeypatch):
    monkeypatch.setenv("HOOK_TOKEN", "canary")
    (folder / "n.yaml").write_text(GOOD + "notify: {url: 'http://localhost:1', token: '${env:HOOK_TOKEN}'}\n")
    made = recipe.load("n.yaml")
    assert "canary" not in dump_yaml(recipe.to_plain(made)) and made.notify.token.reveal() == "canary"


def test_loading_a_recipe_imports_nothing_heavy(folder):
    heavy = "[m for m in ('torch', 'transformers', 'peft', 'pydantic') if m in sys.modules]"
    code = f"import sys; from bottega.workshop import recipe; recipe.load('good.yaml'); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mask_or_template_that_is_not_known_is_found_at_its_place_before_torch_is_imported(folder):
    text = one("{objective: sft, data: chats.jsonl, mask: from:x, template: chatlm}")
    (folder / "bad.yaml").write_text(text)
    code = (
        "import sys; from bottega.core.errors import UserError; from bottega.workshop import recipe\n"
        "try: recipe.load('bad.yaml')\n"
        "except UserError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = text.splitlines()[3]
    mask, template, imported = done.stdout.splitlines()
    assert mask.startswith(f"bad.yaml:4:{line.index('from:x') + 1}: there is no mask 'from:x'")
    assert template.startswith(f"bad.yaml:4:{line.index('chatlm') + 1}: there is no template 'chatlm'")
    assert imported == "False"


def test_a_named_template_a_file_and_the_tokenizers_own_are_taken(folder):
    (folder / "own.jinja").write_text("{{ messages[0].content }}")
    for name in ("chatml", "tokenizer", "own.jinja"):
        (folder / "fine.yaml").write_text(one(f"{{objective: sft, data: chats.jsonl, template: {name}}}"))
        assert Path(recipe.load("fine.yaml").stages[0].template).name == name


def test_steps_on_the_command_line_replace_the_recipes_epochs(tmp_path):
    (tmp_path / "d.txt").write_text("text")
    stages = [{"a": {"objective": "pretrain", "data": str(tmp_path / "d.txt"), "epochs": 3}}]
    source = {"schema": 1, "name": "x", "model": "garzone", "stages": stages}
    (stage,) = recipe.load(source, ["steps=4"]).stages
    assert (stage.steps, stage.epochs) == (4, None)
    with pytest.raises(UserError, match="same twice"):
        recipe.load(source, ["steps=4", "epochs=1"])


def test_an_option_of_the_default_method_needs_no_method_in_the_recipe(tmp_path):
    (tmp_path / "d.txt").write_text("text")
    stages = [{"a": {"objective": "pretrain", "data": str(tmp_path / "d.txt")}}]
    (stage,) = recipe.load({"schema": 1, "name": "x", "model": "garzone", "stages": stages}, ["method.rank=8"]).stages
    assert (stage.method.name, stage.method.options["rank"]) == ("lora", 8)


TREE = """name: x
model: garzone
stages:
  - tune: {objective: sft, data: chats.jsonl, method: full}
  - judge: {objective: reward, data: prefs.jsonl, start: tune}
  - prefer: {objective: dpo, data: prefs.jsonl, start: tune}
  - learn: {objective: grpo, data: chats.jsonl, start: tune, rewards: [{name: model, stage: judge}]}
"""


def test_stages_that_start_from_one_stage_are_a_tree_whose_ends_keep_their_adapters(folder):
    from bottega.workshop import recipe_order

    Path("tree.yaml").write_text(TREE)
    made = recipe.load("tree.yaml")
    assert [recipe_order.before(made, i) for i in range(4)] == [None, 0, 0, 0]
    assert [one.name for one in recipe_order.followers(made, 0)] == ["judge", "prefer", "learn"]
    assert [stage.then for stage in made.stages] == ["merge", "continue", "continue", "continue"]
    again = recipe.load(recipe.to_plain(made))
    assert again == made
    placed = recipe_order.with_paths(made, made.stages[3], lambda at: Path(f"stages/{at}"))
    assert placed.rewards[0].options == {"path": "stages/1/result"}
    chain = recipe.load("good.yaml")
    assert [recipe_order.before(chain, i) for i in range(3)] == [None, 0, 1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("prefs.jsonl, start: tune}\n  - learn", "prefs.jsonl, start: learn}\n  - learn", "bad.yaml:6:56: prefer starts from"),
        ("start: tune, rewards", "start: tun, rewards", "no stage before it; before it come tune, judge, prefer"),
        ("method: full}", "method: full, start: judge}", "it is the first and starts from the model"),
        ("stage: judge}", "stage: judges}", "names the stage 'judges', which is none before this one; did you mean judge?"),
        ("stage: judge}", "stage: prefer}", "the stage prefer is dpo and makes no reward model"),
        ("stage: judge}", "stage: judge, path: runs/j}", "and not both"),
        ("name: model, stage: judge", "name: model", "needs a path"),
    ],
)  # fmt: skip
def test_a_start_or_a_reward_s_stage_that_is_not_there_is_named(folder, old, new, said):
    assert old in TREE
    (found,) = mistakes(TREE.replace(old, new))
    assert said in found


def test_a_device_is_written_as_torch_names_it_and_auto_by_default(folder):
    assert recipe.load("good.yaml").device == "auto" and recipe.load("good.yaml", ["device=cuda:1"]).device == "cuda:1"
    with pytest.raises(
        UserError, match="device 'gpu' is not known; write auto, cpu, cuda, or one of several as cuda:1"
    ):
        recipe.load("good.yaml", ["device=gpu"])
