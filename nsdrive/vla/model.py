"""Load a Qwen-class image-text-to-text checkpoint (Qwen3.5, Qwen3-VL, Qwen2.5-VL) with its processor, by folder or hub id.

    model = load_model("out/run/model")
    processor = load_processor("out/run/model", min_pixels=4096, max_pixels=262144)

Images go through the PIL path: no torchvision is needed, and training and prediction resize alike. A checkpoint may
come from a stranger: weights are read from safetensors only, and its code is run only with trust_remote_code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from nsdrive.dataset import from_json

if not torch.cuda.is_available():
    os.environ.setdefault(
        "DS_ACCELERATOR", "cpu"
    )  # transformers imports DeepSpeed, which else warns that it finds no GPU

LINEAR_KERNELS = {"fla": "flash-linear-attention", "causal_conv1d": "causal-conv1d"}  # module: what pip calls it
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as peft writes them
FAMILIES = ("qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl")
_MOST_ADAPTERS = 8  # on top of each other, chosen by us: two that name each other as their base end somewhere
HUB_TIMEOUT_S = 3.0  # chosen by us: an answer takes a tenth of it
_OLD_PROCESSOR = "qwen2_5_vl"  # the later ones share Qwen3-VL's processor


def load_model(
    source: str | Path, *, dtype: torch.dtype = torch.float32, attention: str = "sdpa", trust_remote_code: bool = False
) -> Any:
    """The model of a folder or hub id, in eval mode on the CPU. A LoRA adapter's folder gives base + adapter, merged.

    Raises FileNotFoundError for a folder that is not there, ValueError for one that is no Qwen-class model, or not a whole one:
    transformers would fill in what lacks with random numbers.
    """
    folder = _checked(source)
    if folder is not None and (folder / ADAPTER).is_file():
        return _load_adapter(folder, dtype=dtype, attention=attention, trust_remote_code=trust_remote_code)
    model_type(source, trust_remote_code=trust_remote_code)
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            str(source),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            local_files_only=_only_local(source),
            use_safetensors=True,  # a .bin file is a pickle: opening a stranger's would run his code
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"The weights of {source} cannot be loaded (only safetensors are): {_first_line(error)}"
        ) from None
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(f"{source} has weights of other sizes than its config.json says") from None
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{source} is not whole: it has no weights {missing[0]}{more}. Copy or download it again")
    # Under ZeRO-3 transformers 5.23 keeps every renaming rule, used or not, and save_pretrained then reverses them all:
    # the saved keys become model.language_model.model.language_model.*, which vLLM refuses. Forget them.
    model.__dict__.pop("_weight_conversions", None)
    return model


def load_processor(
    source: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None, trust_remote_code: bool = False
) -> Any:
    """The stock processor without its video half, images by PIL. Pixels are per image; None keeps the checkpoint's."""
    folder = _checked(source)
    if folder is not None and (folder / ADAPTER).is_file() and not (folder / "tokenizer.json").is_file():
        source = _root_of(source)
    family = model_type(source, trust_remote_code=trust_remote_code)
    from transformers import Qwen2VLImageProcessorPil

    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    try:
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(str(source), local_files_only=_only_local(source))
    except OSError as error:
        raise ValueError(f"{source} has no usable image processor: {_first_line(error)}") from None
    processor = image_only_processor(family)(image_processor, tokenizer, chat_template=tokenizer.chat_template)
    set_pixel_budget(processor, min_pixels=min_pixels, max_pixels=max_pixels)
    return processor


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """A checkpoint's tokenizer, which must know a chat template: a base model's does not."""
    from transformers import AutoTokenizer

    _require_there(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), trust_remote_code=trust_remote_code, local_files_only=_only_local(source)
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} has no usable tokenizer: {_first_line(error)}") from None
    if not tokenizer.chat_template:
        raise ValueError(f"{source} has no chat template: it is a base model. Take the instruction-tuned checkpoint")
    return tokenizer


def set_pixel_budget(processor: Any, *, min_pixels: int | None, max_pixels: int | None) -> None:
    """Least and most pixels per image after resizing; the count of visual tokens is pixels / (patch * merge)^2."""
    size = processor.image_processor.size
    low = size["shortest_edge"] if min_pixels is None else min_pixels
    high = size["longest_edge"] if max_pixels is None else max_pixels
    if not 0 < low <= high:
        raise ValueError(f"The pixel budget of an image must be 0 < min <= max, got {low} and {high}")
    processor.image_processor.size = {"shortest_edge": low, "longest_edge": high}


def save_processor(processor: Any, folder: Path) -> None:
    """Write the processor as the stock one: AutoProcessor reads it too, where torchvision is installed."""
    processor.save_pretrained(folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    images = processor.image_processor
    kind = "Qwen2VLVideoProcessor" if images.patch_size == 14 else "Qwen3VLVideoProcessor"
    config.setdefault(
        "video_processor",  # the stock class cannot be made without one
        {
            "video_processor_type": kind,
            "patch_size": images.patch_size,
            "temporal_patch_size": images.temporal_patch_size,
            "merge_size": images.merge_size,
            "size": dict(images.size),
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
        },
    )
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def image_only_processor(family: str) -> type:
    """Qwen's processor class without the video processor, the one part that needs torchvision.

    ProcessorMixin reads the parts from __init__'s signature, so leaving one out of it is enough. The class bears the
    stock name, so that a saved folder names the stock class.
    """
    from transformers import Qwen2_5_VLProcessor, Qwen3VLProcessor
    from transformers.processing_utils import ProcessorMixin

    base: Any = Qwen2_5_VLProcessor if family == _OLD_PROCESSOR else Qwen3VLProcessor

    def __init__(
        self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
    ) -> None:
        for name in ("image", "video"):
            setattr(self, f"{name}_token", f"<|{name}_pad|>")
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>"))
        for name in ("vision_start", "vision_end"):
            setattr(self, f"{name}_token", f"<|{name}|>")
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return type(base.__name__, (base,), {"__init__": __init__, "__module__": base.__module__})


def model_type(source: str | Path, *, trust_remote_code: bool = False) -> str:
    """'qwen3_5', 'qwen3_vl', ... of a folder (an adapter's: of its base) or hub id; ValueError if it is not Qwen-class."""
    return str(model_config(source, trust_remote_code=trust_remote_code).model_type)


def model_config(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """transformers' config of a folder (an adapter's: of its base) or hub id; ValueError if it is not Qwen-class."""
    from transformers import AutoConfig

    source = _root_of(source)
    _require_there(source)
    try:
        config = AutoConfig.from_pretrained(
            str(source), trust_remote_code=trust_remote_code, local_files_only=_only_local(source)
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} is no model folder, nor a model that the hub gives: {_first_line(error)}") from None
    if config.model_type not in FAMILIES:
        reads = "" if hasattr(config, "vision_config") else ", which reads no images"
        raise ValueError(f"{source} is a '{config.model_type}' model{reads}. Known: {', '.join(FAMILIES)}")
    return config


def require_fast_kernels(family: str, *, allow_slow: bool) -> None:
    """On CUDA, Qwen3.5 without its kernels falls back silently to code several times slower: refuse that."""
    missing = [] if allow_slow else missing_linear_kernels(family)
    if missing:
        raise ValueError(
            f"Qwen3.5 on a GPU needs {' and '.join(missing)}, else its linear attention is several times slower: "
            f"pip install {' '.join(missing)} (or --allow-slow-kernels; of a planner allow_slow_kernels=true)"
        )


def missing_linear_kernels(family: str) -> list[str]:
    """What pip should install for the linear attention of a family; nothing without CUDA, where no kernel would run."""
    if not torch.cuda.is_available() or not family.startswith("qwen3_5"):
        return []
    return [package for module, package in LINEAR_KERNELS.items() if importlib.util.find_spec(module) is None]


def quiet_libraries() -> None:
    """Errors only from transformers and DeepSpeed, no progress bars: nsdrive prints its own lines."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("DeepSpeed", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # peft 0.21 asks transformers 5.23 by a name that is being renamed
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def _load_adapter(folder: Path, **how: Any) -> Any:
    _root_of(folder)
    base = load_model(adapter_base(folder), **how)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {ADAPTER_WEIGHTS}: only safetensors are loaded")
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            there = set(file.keys())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # told below, and refused
            model = PeftModel.from_pretrained(base, str(folder))
        needed = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"{folder} is no adapter of {adapter_base(folder)}: {_first_line(error)}") from None
    missing, strange = sorted(needed - there), sorted(name for name in there - needed if "lora_" in name)
    if missing or strange:
        names, what = (missing, "has no weights") if missing else (strange, "has weights of another model:")
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(f"{folder} is not the whole adapter: it {what} {names[0]}{more}. Copy or download it again")
    return model.merge_and_unload()


def _root_of(source: str | Path) -> str | Path:
    """The model at the bottom: an adapter's base, and that one's where it is an adapter itself."""
    first = source
    for _ in range(_MOST_ADAPTERS):
        folder = _checked(source)
        if folder is None or not (folder / ADAPTER).is_file():
            return source
        source = adapter_base(folder)
    raise ValueError(f"{first} leads from adapter to adapter, and to no model")


def adapter_base(folder: Path) -> str:
    """The model that an adapter belongs to: a folder or hub id. ValueError for an adapter_config.json that names none."""
    base = adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder}/{ADAPTER} names no base model")
    beside = folder.parent / Path(base).name  # a base that the run made travels in its folder, wherever that was moved
    if beside.name in ("base", "warmed") and beside.is_dir():
        return str(beside)
    places = (Path(), folder, folder.parent)  # what a relative path may have been meant from
    return next((str(place / base) for place in places if (place / base).is_dir()), base)


def adapter_config(folder: Path) -> dict[str, Any]:
    """What a folder's adapter_config.json says; ValueError where that is no JSON object. It may come from a stranger."""
    try:
        config = from_json((folder / ADAPTER).read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}/{ADAPTER} cannot be read: {_first_line(error)}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder}/{ADAPTER} is no JSON object, but a {type(config).__name__}")
    return config


def _checked(source: str | Path) -> Path | None:
    """The folder, None for a hub id, or FileNotFoundError for what can only have been meant as a folder."""
    path = Path(source)
    if path.is_dir():
        return path
    text = str(source)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1 or path.parent.is_dir():
        raise FileNotFoundError(
            f"No model folder {source} (a hub id has the form owner/name). Train one: nsdrive train"
        )
    return None


def _require_there(source: str | Path) -> None:
    """ValueError at once for a hub id that is neither cached nor to be had: the hub's library would try for 40 s."""
    if _checked(source) is None and not _is_cached(source) and _only_local(source):
        raise ValueError(
            f"{source} is not in this machine's Hugging Face cache, and the hub is out of reach. "
            f"Where it is not: hf download {source}, or give a model's folder"
        )


def _only_local(source: str | Path) -> bool:
    return _checked(source) is None and not _hub_is_reachable()


def _is_cached(source: str | Path) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(str(source), "config.json"), str)


@lru_cache(maxsize=1)
def _hub_is_reachable() -> bool:
    """False where offline mode is set, or the hub's address does not answer within a few seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():  # another machine asks for us
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=HUB_TIMEOUT_S):
            return True
    except OSError:
        return False


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
