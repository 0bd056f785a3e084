"""What can be set about a training run. Defaults are the small demo's; configs/train/*.yaml hold the differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nsdrive.vla.training.tracking import check_trackers


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; see the groups below. Global batch = per_device_batch_size x accumulation x processes."""

    # ---- the model
    # a folder, a hub id (Qwen/Qwen3.5-4B, ...), "box": the small model that comes along, or "tiny": random weights made here
    model: str = "tiny"
    tiny_size: Literal["xs", "box", "s", "l"] = "xs"
    tiny_arch: Literal["qwen3_5", "qwen3_vl", "qwen2_5_vl"] = "qwen3_5"
    tiny_vocabulary: int = 1024  # chosen by us: words of our texts become one token each, digits always are
    trust_remote_code: bool = False  # runs Python that comes with the checkpoint: only for one that you trust
    attention: str = "sdpa"  # or "flash_attention_2" where that is installed
    allow_slow_kernels: bool = False  # train Qwen3.5 on CUDA without flash-linear-attention (several times slower)
    # Fast kernels on CUDA. auto: those installed, Liger's too; require: all that fit the model, else an error with the
    # install line; off: no Liger, and Qwen3.5's may be missing
    kernels: Literal["auto", "require", "off"] = "auto"

    # ---- what is trained
    method: Literal["full", "lora"] = "full"
    lora_rank: int = 16  # LoRA paper (2106.09685) sees little gain above; alpha = 2 rank is the common choice
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    # "language": every linear layer of the language model; "attention": of these only those that mix tokens, Qwen3.5's linear
    # attention too; "all": the vision tower's as well; or a regular expression on the modules' names
    lora_targets: str = "language"
    freeze_vision: bool = False  # the tower and its merger
    train_merger: bool = False  # with freeze_vision: the merger learns all the same
    vision_learning_rate: float | None = None  # of tower and merger; None: learning_rate

    # ---- the data
    train_level: Literal["none", "brief", "detailed"] | None = None  # only samples of this trace level; None: all
    # per image, after resizing; 32 x 32 px are one token (Qwen3-VL: patch 16, merge 2)
    min_image_pixels: int = 4 * 32 * 32
    max_image_pixels: int = 512 * 512  # the published release's inference setting, 256 tokens an image
    workers: int = 0  # processes that decode images; 0: in the training process
    group_by_length: bool = False  # global batches of about one length: less padding, little less mixing
    # a dataset of questions about images (`nsdrive perceive`) to learn from at the same time
    co_data: str | None = None
    co_share: float = 0.25  # of every global batch, with co_data; chosen by us: more images, but few answer tokens
    co_weight: float = 1.0  # of an answer token about images beside a planning token; there are a hundred times fewer
    packing: bool = False  # a micro-batch is one row without padding, its samples kept apart (attention, linear too)

    # ---- the loss
    reasoning_weight: float = 1.0  # of a reasoning token's loss beside a planning token's
    place_weights: bool = False  # digits weigh by their decimal place: a wrong metre costs more than a wrong centimetre
    number_token_loss: float = 0.0  # weight of the distance between digits (2411.02083, which uses 0.3)
    trajectory_head: Literal["none", "regression", "flow"] = "none"  # waypoints from a hidden state too
    head_looks: bool = True  # the head has an attention of its own over the images' tokens
    # after the steps: passes of the head alone over states computed once, see training/head_alone.py
    head_epochs: int = 0
    head_samples: int = 7000  # for that, chosen by us; their image states are kept in memory
    head_weight: float = 1.0  # of its loss, beside the mean of the answer's tokens
    vision_warmup_steps: int = 0  # before the steps: the vision tower alone learns what the renderer knows
    vision_warmup_batch: int = 16  # samples of each of those, on every process
    vision_warmup_learning_rate: float = 1e-3  # chosen by us, for a tower of random weights

    # ---- the optimisation
    learning_rate: float = 2e-5  # AutoVLA's fine-tuning of Qwen2.5-VL
    lr_schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_steps: int = 20  # chosen by us
    weight_decay: float = 0.0  # chosen by us: few epochs of fine-tuning do not overfit through large weights
    adam_beta2: float = 0.999  # AdamW's default
    max_grad_norm: float = 1.0
    per_device_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    epochs: float = 3.0  # chosen by us
    max_steps: int | None = None  # overrides epochs
    seed: int = 0

    # ---- how it runs
    # or "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", the path of a DeepSpeed JSON
    deepspeed: str = "none"
    bf16: Literal["auto", "on", "off"] = "auto"  # auto: on CUDA
    gradient_checkpointing: bool = False
    check_memory: bool = True  # refuse a run that the forecast says cannot fit into the GPU; false: only say so
    save_every_steps: int = 200
    save_every_minutes: float | None = 30.0  # and by the clock; chosen by us: what a lost node costs at most
    process_timeout_minutes: float = 30.0  # torch's for gloo: a process that is waited for so long counts as lost
    keep_checkpoints: int = 2  # complete ones; the newest is what --resume goes on from
    log_every_steps: int = 1
    track: tuple[str, ...] = ("tensorboard",)  # and wandb, trackio: where the numbers of loss.jsonl are sent too
    # ADE@3s and miss rate@3s on samples of the val split, also after the last step; 0: never
    validate_every_steps: int = 0
    # chosen by us: the same ones each time; their answers are generated, which takes minutes
    validate_samples: int = 64

    def __post_init__(self) -> None:
        for name in ("per_device_batch_size", "gradient_accumulation_steps", "save_every_steps", "log_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("save_every_minutes", "process_timeout_minutes"):
            minutes = getattr(self, name)
            if minutes is not None and minutes <= 0:
                raise ValueError(f"{name} must be positive, got {minutes}")
        for name in ("reasoning_weight", "number_token_loss", "head_weight", "co_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.head_epochs < 0 or self.head_samples < 2:
            raise ValueError(
                f"head_epochs must be 0 or more and head_samples 2 or more, got {self.head_epochs} and {self.head_samples}"
            )
        if self.head_epochs and self.trajectory_head == "none":
            raise ValueError("head_epochs trains a trajectory head: set trajectory_head=regression or flow")
        if self.vision_warmup_steps < 0 or self.vision_warmup_batch < 1 or self.vision_warmup_learning_rate <= 0:
            raise ValueError("vision_warmup_steps must be 0 or more, its batch at least 1, its learning rate positive")
        if self.vision_warmup_steps and (self.freeze_vision or self.method == "lora"):
            raise ValueError("vision_warmup_steps trains the vision tower: take method=full and freeze_vision=false")
        check_trackers(self.track)
        if self.validate_every_steps < 0 or self.validate_samples < 1:
            raise ValueError(
                f"validate_every_steps must be 0 (never) or more, validate_samples at least 1, got "
                f"{self.validate_every_steps} and {self.validate_samples}"
            )
        if not 0 <= self.seed < 2**32:  # numpy's range
            raise ValueError(f"seed must be 0 or more, and below 2**32, got {self.seed}")
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, got {self.keep_checkpoints}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")
        if self.epochs <= 0 or self.learning_rate <= 0:
            raise ValueError(f"epochs and learning_rate must be positive, got {self.epochs} and {self.learning_rate}")
        if self.vision_learning_rate is not None and self.vision_learning_rate <= 0:
            raise ValueError(f"vision_learning_rate must be positive, got {self.vision_learning_rate}")
        if self.train_merger and (self.method == "lora" or not self.freeze_vision):
            raise ValueError(
                "train_merger=true is for method=full with freeze_vision=true, where the merger would be frozen"
            )
        if not 0.0 < self.co_share < 1.0:
            raise ValueError(f"co_share must be between 0 and 1, got {self.co_share}; without co_data it is not used")
        if self.save_every_steps % self.log_every_steps:
            raise ValueError(
                f"save_every_steps ({self.save_every_steps}) must be a multiple of log_every_steps "
                f"({self.log_every_steps}), so that a resumed run logs what an undisturbed one would"
            )
