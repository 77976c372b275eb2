"""Any decoder, encoder or encoder-decoder of transformers from safetensors, with its tokenizer and what a numeric probe found out.

Left out: choosing a device (core/devices.py); 4 and 8 bits and layers left on disk are models/lean.py's, GGUF is
models/exports/gguf_read.py's. Nothing here opens a pickle or runs a model's own code, unless trusted by revision; only
a Hub id opens a connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from bottega.core.errors import UserError
from bottega.core.types import Attached
from bottega.models import decoder, kinds, locate, safety
from bottega.models.layers import Model
from bottega.models.lean import Lean, load_lean, quantise_resident
from bottega.models.place import put
from bottega.models.plain import no_report, quiet_bars
from bottega.models.probe import Probe, probe
from bottega.models.purpose import CLASSES, LABELLED, LANGUAGE, Purpose
from bottega.models.purpose import read as read_purpose
from bottega.models.purpose import wanted as wanted_purpose
from bottega.models.quant import Kind, as_kind
from bottega.models.tokenizer import extend_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loaded:
    """A model ready to be attached to, sampled or scored.

    model: the transformers model (in evaluation mode; an adapter's layers are inside it). tokenizer: its own.
    identity: changes when a byte of weights or config does (a Hub commit, or a sha256). folder: what was named.
    adapter: the outermost adapter's folder, or None; attached: that adapter as a method (merge, inputs). packs: may
    rows be packed. notes: lines for the run's report. purpose: what its head answers, where it has one for labels or vectors.
    """

    model: Model
    tokenizer: Any
    identity: str
    folder: Path
    adapter: str | None
    packs: bool
    notes: tuple[str, ...]
    attached: Attached | None = None
    purpose: Purpose | None = None

    @property
    def kind(self) -> kinds.Kind:
        """Decoder, encoder or encoder-decoder."""
        return kinds.kind_of(self.model.config)


def load(
    model: str | Path,
    *,
    dtype: str = "float32",
    trust: bool = False,
    revision: str | None = None,
    offline: bool | None = None,
    weights: str = "full",
    stream: bool = False,
    cache: Path | None = None,
    trainable: bool = False,
    purpose: Purpose | None = None,
    device: str = "cpu",
) -> Loaded:
    """Load a model by Hub id, folder, adapter folder, run folder, GGUF file, or `garzone`.

    Args:
        model: what the user calls it; an existing folder is taken before a Hub id.
        dtype: float32, bfloat16, float16 or float64, whatever the file holds. device: where it lies (core/devices.py).
        trust: run code that comes with the model named (never with an adapter's base); needs `revision` (a 40-hex
        commit; for a folder the hash of its code).
        revision: branch, tag or commit of a Hub id.
        offline: True opens no connection; None asks the environment.
        weights: how linear layers are held: full (in `dtype`), nf4 or int8 (models/quant.py).
        stream: decoder layers stay on disk and visit memory one at a time (models/stream.py). cache: folder in which
            quantised layer files are kept for the next time; None makes them anew in a temporary folder.
        trainable: the outermost adapter goes on learning (`attached.groups`); else it is only used.
        purpose: what its head is to answer; one that is not there, or is for other labels, is made anew. None: as saved.

    Raises:
        UserError: it is not there, not complete, or of a kind that does not load here.
        Unsafe: pickles only, code without trust, or a damaged file.
    """
    if str(model).endswith(".gguf") and Path(model).expanduser().is_file():
        ordinary = weights == "full" and not (stream or trust)
        return _from_gguf(Path(model).expanduser(), dtype, ordinary=ordinary, device=device)
    place = _place(str(model), dtype, trust, revision, offline)
    trust = trust and not place.adapters  # the revision pins what was named, not the base that an adapter's file names
    tokenizer = load_tokenizer(place.folder if has_tokenizer(place.folder) else place.base, trust=trust)
    lean = _lean(weights, stream, cache, known := identity(place), device)
    purpose = wanted_purpose(read_purpose(place.adapters[-1] if place.adapters else place.base), purpose)
    module, fresh = _load(place.base, purpose, bool(place.adapters), dtype=dtype, trust=trust, lean=lean)
    _tell(module, tokenizer, place)
    _check_vocabulary(module, tokenizer, place.base)
    found: Probe = probe(put(module, device))
    module, attached = _adapted(module, place.adapters, trainable)
    module.eval()
    return Loaded(
        model=module,
        tokenizer=tokenizer,
        identity=known,
        folder=place.folder,
        adapter=str(place.adapters[-1]) if place.adapters else None,
        packs=found.packs,
        notes=(*place.notes, *([f"new, random at the start: {', '.join(fresh)}"] * bool(fresh)), *found.notes()),
        attached=attached,
        purpose=None if purpose is not None and purpose.kind == LANGUAGE else purpose,
    )


def _tell(module: Model, tokenizer: Any, place: locate.Place) -> None:
    """What the model knows of its tokenizer and of its base."""
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id  # a label head looks for the last token before it
    module.config._name_or_path = place.base_id  # what adapters on it will name as their base
    if place.adapters:
        extend_model(module, tokenizer)


def packs(loaded: Loaded, *, branches: bool) -> bool:
    """Whether rows may be packed; with branches an encoder's may not, for in it a shared prompt would see one of them."""
    return loaded.packs and not (branches and loaded.kind == "encoder")


def _lean(weights: str, stream: bool, cache: Path | None, known: str, device: str) -> Lean | None:
    if weights == "full" and not stream:
        return None
    key = hashlib.sha256(known.encode()).hexdigest()
    return Lean(kind=as_kind(weights), stream=stream, cache=cache, key=key, device=device)


def _from_gguf(path: Path, dtype: str, *, ordinary: bool, device: str) -> Loaded:
    """A GGUF file, its header checked first; its quantised tensors come in `dtype`."""
    from bottega.models.exports.gguf_read import load_gguf

    if not ordinary:
        raise UserError(
            f"{path} is a GGUF file, which is read into memory in full: leave weights, stream and trust out"
        )
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    module, tokenizer = load_gguf(path, dtype=DTYPES[dtype])
    module.config._name_or_path = str(path.resolve())
    _check_vocabulary(module, tokenizer, path)
    found: Probe = probe(put(module, device))
    with open(path, "rb") as file:
        known = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return Loaded(
        model=module.eval(),
        tokenizer=tokenizer,
        identity=known,
        folder=path,
        adapter=None,
        packs=found.packs,
        notes=found.notes(),
    )


def _adapted(module: Model, adapters: tuple[Path, ...], trainable: bool) -> tuple[Model, Attached | None]:
    """The model with its adapters: all but the outermost merged."""
    attached: Attached | None = None
    for adapter in adapters:
        if attached is not None:
            if attached.merge is None:
                raise UserError(
                    f"{adapter} lies on a {attached.name} adapter, which cannot be merged; use one of them alone"
                )
            module = attached.merge()
        attached = _attach(module, adapter, trainable and adapter == adapters[-1])
    return module, attached


def _place(name: str, dtype: str, trust: bool, revision: str | None, offline: bool | None) -> locate.Place:
    """Where the model lies, once what was asked for makes sense."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if trust:
        local = Path(name).expanduser()
        safety.check_trust(name, revision=revision, folder=local if local.is_dir() else None)
        if local.is_dir():
            revision = None
    return locate.locate(name, revision=revision, offline=offline, code=trust)


def _attach(module: Model, adapter: Path, trainable: bool) -> Attached:
    from bottega.models.methods import attach_saved

    for file in safety.weight_files(adapter):
        safety.check_safetensors(file)
    return attach_saved(module, adapter, trainable=trainable)


def load_weights(folder: str | Path, *, dtype: str = "float32", trust: bool = False, lean: Lean | None = None) -> Model:
    """The language model (causal, masked or encoder-decoder) of a local folder, its files checked first.

    Raises:
        UserError, Unsafe: see `load`.
    """
    return _load(folder, None, False, dtype=dtype, trust=trust, lean=lean)[0]


def _load(
    folder: str | Path, purpose: Purpose | None, adapted: bool, *, dtype: str, trust: bool, lean: Lean | None
) -> tuple[Model, tuple[str, ...]]:
    """The model with the head that `purpose` asks for, and the names of its parts that are random.

    Args:
        adapted: an adapter brings the head.
    """
    from transformers import AutoConfig

    folder = Path(folder)
    decoder.register()
    safety.check_configs(folder, trust=trust)
    if safety.read_config(folder / "config.json").get("quantization_config") is not None:
        raise UserError(f"{folder} holds a quantised model; load the unquantised weights it was made from")
    for file in safety.weight_files(folder):
        safety.check_safetensors(file)
    with plainly(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
        kind = kinds.kind_of(config)
        maker = _maker(kind, purpose, folder)
        if purpose is not None:
            config.update(purpose.options())
        if lean is not None and kind != "decoder":
            raise UserError(f"{folder} holds an {kind}; 4 and 8 bits and layers left on disk are for decoders so far")
        if lean is not None and (found := load_lean(folder, config, DTYPES[dtype], lean, trust=trust)) is not None:
            return found, ()
        with quiet_bars(), no_report(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a new head starts at random, and the same every time
            both: Any = maker.from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                config=config,
                local_files_only=True,
                trust_remote_code=trust,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=purpose is not None and purpose.kind in LABELLED,
            )
    module, info = both
    fresh = _check_missing(module, info, folder, purpose)
    return module if lean is None else quantise_resident(module, cast(Kind, lean.kind)), () if adapted else fresh


def _maker(kind: kinds.Kind, purpose: Purpose | None, folder: Path) -> Any:
    """The class of transformers that loads it.

    Raises:
        UserError: this kind of model has no such head here.
    """
    import transformers

    if purpose is not None and (purpose.kind == LANGUAGE or (purpose.kind == "contrastive" and kind != "encoder")):
        purpose = None
    if purpose is not None and kind == "encoder-decoder":
        raise UserError(
            f"{folder} holds an encoder-decoder, which writes labels as text: train it with objective sft, or name an encoder for "
            f"{purpose.kind}"
        )
    language = {
        "decoder": "AutoModelForCausalLM",
        "encoder": "AutoModelForMaskedLM",
        "encoder-decoder": "AutoModelForSeq2SeqLM",
    }
    return getattr(transformers, CLASSES[purpose.kind] if purpose else language[kind])


def _check_missing(module: Model, info: Any, folder: Path, purpose: Purpose | None) -> tuple[str, ...]:
    """The parts that the folder does not hold: a new head may be among them, and nothing else.

    Raises:
        UserError: tensors of the trunk are not there.
    """
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    allowed = kinds.head_modules(module)
    if purpose is not None and purpose.kind in (LANGUAGE, "contrastive") and kinds.kind_of(module.config) == "encoder":
        trunk = f"{module.base_model_prefix}."
        allowed = [key for key in missing if purpose.kind == LANGUAGE and not key.startswith(trunk)]
        allowed += ["pooler"]  # no vector of ours and no masked token is read from it
    lacking = [key for key in missing if not any(key == part or key.startswith(f"{part}.") for part in allowed)]
    if lacking:
        raise UserError(
            f"{folder} lacks {len(lacking)} of the tensors of {type(module).__name__} ({lacking[0]} ...), which would "
            f"stay random; use a folder that has them"
        )
    return tuple(sorted({key.rpartition(".")[0] for key in missing if not key.startswith("pooler")}))


@contextmanager
def plainly(folder: Path) -> Iterator[None]:
    """What transformers raises about a folder's content, as one sentence."""
    from huggingface_hub.errors import StrictDataclassError

    known = (
        ValueError,
        LookupError,
        OSError,
        RuntimeError,
        AttributeError,
        TypeError,
        ImportError,
        StrictDataclassError,
    )
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, known) and type(error) is not Exception:  # what Rust code raises is a bare Exception
            raise
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} does not load: {said}") from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder brings a tokenizer of its own."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def load_tokenizer(folder: str | Path, *, trust: bool = False) -> Any:
    """The tokenizer of a local folder, exactly as its tokenizer.json says where it has one of the generic class.

    (AutoTokenizer picks a class by the model's family for some folders, which adds tokens of that family.)

    Raises:
        UserError: there is none, or it does not load. Unsafe: it names code to run.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(folder)
    if not has_tokenizer(folder):
        raise UserError(f"{folder} has no tokenizer (tokenizer.json); copy the one that belongs to it there")
    safety.check_configs(folder, trust=trust)
    config = folder / "tokenizer_config.json"
    kind = safety.read_config(config).get("tokenizer_class") if config.is_file() else None
    generic = kind in ("PreTrainedTokenizerFast", "TokenizersBackend") and (folder / "tokenizer.json").is_file()
    with plainly(folder):
        if generic:
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)


def _check_vocabulary(module: Model, tokenizer: Any, folder: Path) -> None:
    rows = module.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens but the model only {rows} embeddings; use the "
            f"tokenizer that belongs to it"
        )


def identity(place: locate.Place) -> str:
    """A text that changes when a byte of the weights or configs does: `id@commit`, or a sha256 over the files."""
    parts = [f"{place.name}@{place.commit}"] if place.commit and not place.adapters else []
    for folder in [] if parts else [place.base, *place.adapters]:
        digest = hashlib.sha256()
        configs = [folder / name for name in ("config.json", "adapter_config.json") if (folder / name).is_file()]
        for path in [*configs, *safety.weight_files(folder)]:
            with open(path, "rb") as file:
                digest.update(f"{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
        parts.append(f"sha256:{digest.hexdigest()}")
    return "+".join(parts)
