"""An InstructLab home becomes a folder of ours; what stays behind is named (L24)."""

import json
import shutil

import pytest

from bottega import cli
from bottega.core.errors import UserError
from bottega.workshop import recipe
from bottega.workshop.lab_import import import_home
from tests.synth.leaves import SKILL, put
from tests.workshop.made import chat, jsonl

CONFIG = """
general: {log_level: INFO}
generate: {pipeline: full, taxonomy_path: /data/instructlab/taxonomy}
serve: {model_path: /cache/model.gguf}
train:
  pipeline: accelerated
  model_path: garzone
  data_path: /data/instructlab/datasets
  lora_rank: 0
  phased_phase1_num_epochs: 2
  phased_phase1_effective_batch_size: 4
  phased_phase2_num_epochs: 1
  phased_phase2_effective_batch_size: 4
  phased_mt_bench_judge: /cache/prometheus
"""


@pytest.fixture
def home(tmp_path):
    root = tmp_path / "instructlab"
    root.mkdir()
    (root / "config.yaml").write_text(CONFIG)
    put(root / "taxonomy", "compositional_skills/words", SKILL)
    (root / "taxonomy" / "README.md").write_text("hello")
    (root / "taxonomy" / ".git").mkdir()
    (root / "taxonomy" / "compositional_skills" / "notes.txt").write_text("hello")
    (root / "taxonomy" / "link").symlink_to(root / "models")
    data = root / "datasets" / "2026-01-01"
    data.mkdir(parents=True)
    jsonl(data / "knowledge_train_msgs_1.jsonl", [chat("a?", "b."), chat("c?", "d.")])
    jsonl(data / "skills_train_msgs_1.jsonl", [chat("e?", "f.")])
    (data / "knowledge_recipe_1.yaml").write_text("datasets: []\n")
    (data / "broken.jsonl").write_text('{"a": 1}\n')
    for name in ("models", "checkpoints", "chatlogs", "mine"):
        (root / name).mkdir()
        (root / name / "x.bin").write_bytes(b"1")
    return root


def test_leaves_data_and_recipe_come_over_and_the_rest_is_named(home, tmp_path):
    found = import_home(home, out=tmp_path / "ours")
    ours = tmp_path / "ours"
    assert (found["leaves"], found["leaf_errors"]) == (1, 0)
    assert (ours / "taxonomy" / "compositional_skills" / "words" / "qna.yaml").is_file()
    rows = {one["file"]: one["rows"] for one in found["datasets"]}
    assert rows["2026-01-01/knowledge_train_msgs_1.jsonl"] == 2 and rows["2026-01-01/skills_train_msgs_1.jsonl"] == 1
    plan = recipe.load(ours / "recipe.yaml")
    assert [stage.epochs for stage in plan.stages] == [2, 1] and plan.model == "garzone"
    assert [part.path.rsplit("/", 1)[1] for stage in plan.stages for part in stage.data] == [
        "knowledge_train_msgs_1.jsonl",
        "skills_train_msgs_1.jsonl",
    ]
    why = {one["what"]: one["why"] for one in found["not_carried"]}
    assert {
        "models",
        "checkpoints",
        "chatlogs",
        "mine",
        "taxonomy/link",
        "taxonomy/compositional_skills/notes.txt",
    } <= set(why)
    assert {"taxonomy/README.md", "taxonomy/.git"} <= set(why)
    assert {"datasets/2026-01-01/knowledge_recipe_1.yaml", "datasets/2026-01-01/broken.jsonl"} <= set(why)
    assert "config.yaml: train.phased_mt_bench_judge" in why and why["mine"] == "not known to be InstructLab's"
    page = (ours / "IMPORT.md").read_text()
    assert all(what in page for what in why) and "/data/instructlab/datasets" in page
    assert not (ours / "taxonomy" / "link").exists()


def test_the_imported_recipe_trains(home, tmp_path):
    import_home(home, out=tmp_path / "ours")
    assert cli.door(["run", str(tmp_path / "ours" / "recipe.yaml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert (tmp_path / "run" / "stages" / "02-skills" / "result").is_dir()


def test_parts_lie_where_a_users_home_has_them(home, tmp_path):
    user = tmp_path / "user"
    (user / ".config").mkdir(parents=True)
    (user / ".local" / "share").mkdir(parents=True)
    shutil.move(str(home), user / ".local" / "share" / "instructlab")
    (user / ".config" / "instructlab").mkdir()
    shutil.move(str(user / ".local" / "share" / "instructlab" / "config.yaml"), user / ".config" / "instructlab")
    (user / "photos").mkdir()
    found = import_home(user, out=tmp_path / "ours")
    assert found["leaves"] == 1 and found["recipe"] and len(found["datasets"]) == 3
    left = {one["what"] for one in found["not_carried"]}
    assert {".local/share/instructlab/models", ".local/share/instructlab/mine", "photos"} <= left


def test_a_home_without_data_gives_its_leaves_and_says_why_there_is_no_recipe(home, tmp_path, capsys):
    shutil.rmtree(home / "datasets")
    assert cli.door(["lab", "import", str(home), "--out", str(tmp_path / "ours"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] is None and found["leaves"] == 1 and not (tmp_path / "ours" / "recipe.yaml").exists()
    assert {
        "what": "config.yaml",
        "why": "there are no data sets, so that a recipe would have nothing to read",
    } in found["not_carried"]
    assert cli.door(["lab", "import", str(home), "--out", str(tmp_path / "more")]) == 0
    assert "1 leaves (0 errors), 0 data sets of 0 rows, no recipe" in capsys.readouterr().out


def test_the_real_default_configuration_is_read(home, tmp_path, shared_data):
    shutil.copy(shared_data("instructlab/default_config.yaml"), home / "config.yaml")
    found = import_home(home, out=tmp_path / "ours", model="garzone")
    assert recipe.load(tmp_path / "ours" / "recipe.yaml").model == "garzone" and len(found["not_carried"]) > 60


def test_a_configuration_that_cannot_be_read_is_refused_before_anything_is_written(home, tmp_path):
    for text, reason in (("train: [\n", "not valid YAML"), ("- a\n", "holds no mapping")):
        (home / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=reason):
            import_home(home, out=tmp_path / "ours")
        assert not (tmp_path / "ours").exists()


def test_a_configuration_without_a_model_or_training_is_named_and_the_rest_comes_over(home, tmp_path):
    for number, (text, reason) in enumerate(
        (("{train: {pipeline: full}, generate: {}, serve: {}}", "names no model"), ("chat: {}", "no section train"))
    ):
        (home / "config.yaml").write_text(text)
        found = import_home(home, out=tmp_path / f"ours{number}")
        assert found["recipe"] is None and found["leaves"] == 1 and len(found["datasets"]) == 3
        assert [one["why"] for one in found["not_carried"] if one["what"] == "config.yaml" and reason in one["why"]]


def test_nothing_to_import_and_a_folder_in_use_are_refused(home, tmp_path):
    with pytest.raises(UserError, match="holds no config.yaml, taxonomy or datasets"):
        import_home(tmp_path / "nowhere", out=tmp_path / "ours")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "x").write_text("x")
    with pytest.raises(UserError, match="is there and not empty"):
        import_home(home, out=tmp_path / "ours")
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["x"]
