"""`bottega run` as several processes (T10, X6): the curve of one, one writer, one exit code, nothing that hangs.

Ranks are forked from one process that has imported everything (tests/workshop/many.py); torchrun itself is in test_torchrun.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottega.core import rundir
from bottega.workshop.stages import run
from tests.workshop.made import workshop
from tests.workshop.many import Many

SHORT = """
name: many
model: model
seed: 1
stages:
  - adapt: {objective: pretrain, data: docs, method: {name: lora, rank: 4}, steps: 4, batch: 4, max_tokens: 64, lr: 1e-3}
  - instruct: {objective: sft, data: chats.jsonl, method: full, steps: 6, batch: 4, validation: 0.1, lr: 1e-3, clip: 0.5,
               save_every: 2, eval_every: 3, micro_tokens: 120}
  - align: {objective: {name: dpo, beta: 0.1}, data: prefs.jsonl, method: {name: lora, rank: 4}, steps: 3, lr: 1e-3, batch: 4}
"""
SINGLE = """
name: single
model: model
seed: 1
stages:
  - instruct: {objective: sft, data: chats.jsonl, method: full, steps: 5, batch: 4, lr: 1e-3, micro_tokens: 120, save_every: 2}
"""
STAGES = ("adapt", "instruct", "align")


@pytest.fixture(scope="module")
def many():
    """The process that forks ranks."""
    made = Many()
    yield made
    made.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Inputs, the recipe, and the run of one process in runs/one."""
    folder = workshop(tmp_path_factory.mktemp("many"))
    (folder / "many.yaml").write_text(SHORT)
    (folder / "single.yaml").write_text(SINGLE)
    run(folder / "many.yaml", out=folder / "runs" / "one", quiet=True)
    return folder


def curve(run_folder: Path, stage: str) -> list[dict[str, float]]:
    return rundir.read_jsonl(next((run_folder / "stages").glob(f"*-{stage}")) / "metrics.jsonl")


def assert_same_curve(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    """Losses and gradient norms to 1e-4 of their size; counts of tokens and rows exactly; every metric is there."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        assert [one[k] for k in ("step", "tokens", "rows")] == [other[k] for k in ("step", "tokens", "rows")]
        for key in ("loss", "gradient_norm", "eval.loss", "accuracy", "margin"):
            if key in other:
                assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), (one["step"], key)


def sharing(strategy: str) -> list[str]:
    return [f"{stage}.parallel={strategy}" for stage in STAGES]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_curve_of_one_in_every_stage_and_one_of_them_writes(made, many, tmp_path, strategy):
    """pretrain with LoRA, merged; sft of all weights, clipped; dpo with LoRA: two ranks against one process."""
    from transformers import AutoModelForCausalLM

    out = made / "runs" / strategy
    codes, said = many.run(2, "run", made / "many.yaml", *sharing(strategy), "--out", out, log=tmp_path / "log")
    assert codes == [0, 0], said
    for stage in STAGES:
        assert_same_curve(curve(out, stage), curve(made / "runs" / "one", stage))
    assert said.count("instruct: sft with full") == 1 and said.count("report  ") == 1, "one process speaks"
    assert len(json.loads((out / "host.json").read_text())["sessions"]) == 1
    assert not list(out.rglob(".*.tmp")) and not (out / "stages" / "stacks").exists() and not (out / "stacks").exists()
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(folder / "stages" / "02-instruct" / "result").state_dict()
        for folder in (out, made / "runs" / "one")
    )
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-4


@pytest.fixture(scope="module")
def single(made):
    """The short recipe of one stage, and its run in one process."""
    run(made / "single.yaml", out=made / "runs" / "single", quiet=True)
    return made / "single.yaml"


@pytest.mark.parametrize(
    ("first", "then"),
    [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 4, marks=pytest.mark.slow)],
)
def test_saved_in_shards_and_continued_by_another_number_ends_in_the_same_curve(
    made, single, many, tmp_path, first, then
):
    """Killed in step 5; the checkpoint of step 4 was put together from `first` shards and is cut up for `then` processes."""
    out = tmp_path / "run"
    arguments = ("run", single, "instruct.parallel=fsdp", "--out", out)
    codes, said = many.run(first, *arguments, log=tmp_path / "log", trouble={"rank": None, "step": 5, "what": "kill"})
    assert codes == [-9] * first, said
    codes, said = many.run(then, *arguments, log=tmp_path / "log2")
    assert codes == [0] * then and said.count("continuing after step 4") == 1, said
    assert_same_curve(curve(out, "instruct"), curve(made / "runs" / "single", "instruct"))
    codes, said = many.run(1, "runs", "verify", out, log=tmp_path / "log3")
    assert codes == [0], said


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_four_processes_give_the_curve_of_one(made, many, tmp_path, strategy):
    arguments = ("run", made / "many.yaml", *sharing(strategy), "--out", tmp_path / "run")
    codes, said = many.run(4, *arguments, log=tmp_path / "log")
    assert codes == [0] * 4, said
    for stage in STAGES:
        assert_same_curve(curve(tmp_path / "run", stage), curve(made / "runs" / "one", stage))


@pytest.mark.slow
def test_bf16_in_shards_learns_as_bf16_in_one_process(single, many, tmp_path):
    """Matrix products in bfloat16 differ by their rounding, 2^-8: losses to 1 percent, and the weights stay float32 on disk."""
    from safetensors.torch import load_file

    for size in (1, 2):
        words = ["run", single, "instruct.precision=bf16", "instruct.parallel=fsdp", "--out", tmp_path / str(size)]
        codes, said = many.run(size, *words, log=tmp_path / f"log{size}")
        assert codes == [0] * size, said
    for one, other in zip(curve(tmp_path / "1", "instruct"), curve(tmp_path / "2", "instruct"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2)
    weights = load_file(tmp_path / "2" / "stages" / "01-instruct" / "result" / "model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {"torch.float32"}


@pytest.mark.parametrize(
    ("rank", "what", "code", "line"),
    [(1, "error", 2, "row 7"), pytest.param(0, "bug", 70, "a bug in bottega", marks=pytest.mark.slow)],
)
def test_what_stops_one_process_ends_all_with_its_exit_code_and_one_message(
    single, many, tmp_path, rank, what, code, line
):
    arguments = ("run", single, "--quiet", "--out", tmp_path / "run")
    codes, said = many.run(2, *arguments, log=tmp_path / "log", trouble={"rank": rank, "step": 2, "what": what})
    assert codes == [code, code] and said.count(line) == 1, said
    if what == "error":
        assert said.strip().splitlines()[-1] == "bottega: process 1 of 2: row 7 is too long: shorten it"


def test_a_mistake_in_the_recipe_is_said_once(single, many, tmp_path):
    codes, said = many.run(2, "run", single, "instruct.lr=-1", "--out", tmp_path / "r", log=tmp_path / "log")
    assert codes == [2, 2] and said.count("must be above 0") == 1, said


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "codes"), [(1, [9, -9]), (0, [-9, 9])])
def test_a_killed_process_is_missed_and_the_other_says_so(single, many, tmp_path, rank, codes):
    arguments = ("run", single, "--quiet", "--out", tmp_path / "run")
    found, said = many.run(2, *arguments, log=tmp_path / "log", trouble={"rank": rank, "step": 3, "what": "kill"})
    assert found == codes, said
    assert said.count("bottega: lost contact with") == 1 and "Traceback" not in said, said


def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(single, many, tmp_path):
    out = tmp_path / "run"
    arguments = ("run", single, "--quiet", "--out", out)
    codes, said = many.run(2, *arguments, log=tmp_path / "log", trouble={"rank": 1, "step": 3, "what": "term"})
    assert codes == [143, 143] and said.count("stopped by SIGTERM") == 1, said
    assert (out / "stages" / "01-instruct" / "checkpoints" / "step-0000003").is_dir()


def test_a_rank_that_hangs_is_noticed_its_stacks_are_written_and_all_end(single, many, tmp_path):
    """Rank 1 sleeps in the forward pass of step 3; rank 0 waits for its gradients in a collective."""
    out = tmp_path / "run"
    arguments = ("run", single, "step_timeout_s=2", "--quiet", "--out", out)
    codes, said = many.run(2, *arguments, log=tmp_path / "log", trouble={"rank": 1, "step": 3, "what": "sleep"})
    assert codes == [9, 9], said
    (line,) = [line for line in said.splitlines() if line.startswith("bottega:")]
    assert "step 3 was not done after 2 s (step_timeout_s)" in line
    assert "process 1 in step 3 is in troubled (many.py" in line and "process 0 in step 3 is in" in line
    for rank in (0, 1):
        stacks = (out / "stacks" / f"rank-{rank}.txt").read_text()
        assert "Thread" in stacks and ("in troubled" in stacks) == (rank == 1), stacks


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_shared_exactly(single, many, tmp_path):
    """Batch 5 over 2 processes: 3 and 2 rows, still the gradient of all 5; the last batch of an epoch of 40 rows in sevens is 5."""
    for size in (1, 2, 3):
        recipe = ["run", single, "instruct.batch=7", "instruct.steps=7", "--quiet", "--out", tmp_path / str(size)]
        codes, said = many.run(size, *recipe, log=tmp_path / f"log{size}")
        assert codes == [0] * size, said
        assert_same_curve(curve(tmp_path / str(size), "instruct"), curve(tmp_path / "1", "instruct"))


def test_a_batch_that_is_too_small_is_refused_with_the_numbers_that_work(single, many, tmp_path):
    recipe = ["run", single, "instruct.batch=1", "--out", tmp_path / "c"]
    codes, said = many.run(2, *recipe, log=tmp_path / "log")
    assert (
        codes == [2, 2]
        and said.count("which 2 processes cannot share; use 1 processes, or set batch to at least 2") == 1
    )


def test_sample_replies_from_a_sharded_model_are_refused_with_the_reason(single, capsys):
    from bottega import cli

    assert cli.door(["run", str(single), "instruct.parallel=fsdp", 'instruct.samples=["Hello"]', "--dry-run"]) == 2
    assert "no process holds the whole model under parallel: fsdp" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["{name: prefix, length: 4}", "{name: lisa, active: 1, every: 2}"])
def test_other_methods_give_the_curve_of_one_process_too(single, many, tmp_path, strategy, method):
    words = ["run", single, f"instruct.method={method}", f"instruct.parallel={strategy}", "--quiet", "--out"]
    for size in (1, 2):
        codes, said = many.run(size, *words, tmp_path / str(size), log=tmp_path / f"log{size}")
        assert codes == [0] * size, said
    assert_same_curve(curve(tmp_path / "2", "instruct"), curve(tmp_path / "1", "instruct"))


def test_the_launch_lines_name_the_recipe_and_the_numbers_that_share_its_batch(made, single):
    from bottega.workshop.stages import run_text

    found = run(str(single), ["instruct.batch=12"], out=made / "a run", print_launch=True)
    text = run_text(found)
    assert (
        "torchrun --standalone --nproc-per-node 2 -m bottega.cli run" in text
        and "'" + str(made / "a run") + "'" in text
    )
    assert "# instruct: batch 12: 1, 2, 3, 4, 6 or 12 processes share it evenly" in text
    assert "--nnodes 1:2 --max-restarts 3" in text


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_whatever_the_number_of_processes_the_batch_is_theirs_together_in_one_order(size):
    """Rank r of n takes rows r, r + n, r + 2n ...: dealt out and put back in turn they are the batch again."""
    from bottega.train.parallel import World, mine

    batch = list(range(11))
    hands = [list(mine(World(rank=rank, size=size), batch)) for rank in range(size)]
    assert [hands[i % size][i // size] for i in range(11)] == batch
    assert sum(map(len, hands)) == 11
