"""The static table of verbs: each is a function of the library, imported when it is used.

Left out: their options (verbs_*.py). A function `f` that reports has a twin `f_text` in its module that says the same for people.
"""

VERBS = {
    "demo": "bottega.demo.journey:demo",
    "doctor": "bottega.workshop.doctor:doctor",
    "init": "bottega.workshop.init:init",
    "run": "bottega.workshop.stages:run",
    "plan": "bottega.workshop.plan:plan",
    "eval": "bottega.workshop.use:evaluate",
    "compare": "bottega.workshop.comparing:compare",
    "merge": "bottega.workshop.merging:merge",
    "export": "bottega.workshop.exporting:export",
    "chat": "bottega.workshop.use:chat",
    "generate": "bottega.workshop.use:generate",
    "predict": "bottega.workshop.predict:predict",
    "embed": "bottega.workshop.predict:embed",
    "data inspect": "bottega.workshop.data_verbs:inspect",
    "data check": "bottega.workshop.data_verbs:check",
    "data clean": "bottega.workshop.cleaning:clean",
    "data convert": "bottega.workshop.data_verbs:convert",
    "data split": "bottega.workshop.data_verbs:split",
    "data stats": "bottega.workshop.data_verbs:stats",
    "tokenizer train": "bottega.workshop.vocabularies:train",
    "tokenizer extend": "bottega.workshop.vocabularies:extend",
    "taxonomy check": "bottega.workshop.taxonomy_verbs:check",
    "taxonomy diff": "bottega.synth.taxonomy_git:diff",
    "taxonomy fix": "bottega.synth.taxonomy_fix:fix",
    "taxonomy tree": "bottega.synth.taxonomy_tree:tree",
    "runs list": "bottega.workshop.runs:runs_list",
    "runs compare": "bottega.workshop.runs_compare:runs_compare",
    "runs gc": "bottega.workshop.runs_gc:runs_gc",
    "runs show": "bottega.workshop.runs:runs_show",
    "runs resume": "bottega.workshop.runs:runs_resume",
    "runs verify": "bottega.workshop.runs:runs_verify",
    "runs pin": "bottega.workshop.runs:runs_pin",
}
