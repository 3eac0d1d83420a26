"""The groups of settings, each a frozen pydantic model: of the frozen model, the side network, the data and so on.

The line under each field is its help text on the command line. Unknown keys are errors. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Settings(BaseModel):
    """Base of all groups: frozen, unknown keys refused, defaults validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class BackboneSettings(Settings):
    """The frozen image model."""

    name: str = "auto"
    """`tiny-clip`, `timm:NAME`, `open_clip:ARCH/PRETRAINED`, or `auto`: CLIP ViT-B/16 where its weights can be had,
    else tiny-clip with a warning."""
    weights: str | None = None
    """A local weights file (safetensors, or .pt read with weights_only) instead of a download."""
    pretrained: bool = True
    """False: random weights, for tests and measurements."""
    image_size: int | None = Field(default=None, ge=8)
    """Input side in pixels; position embeddings are resampled as the backbone's library does it. Default: its own."""
    precision: Precision = "auto"
    """Precision of the frozen weights. auto: the checkpoint's own on a GPU, bf16 on CPUs with bf16 units, else fp32."""
    frame_slice: int | None = Field(default=None, ge=1)
    """Run each frozen block over this many frames at a time: less working memory, same numbers."""
    quantise: Literal["none", "int8", "fp8", "int4"] = "none"
    """Keep the matrices of the frozen blocks in fewer bits: less memory, approximate."""
    stream_weights: bool | None = None
    """Keep the frozen blocks in host memory and bring each to the GPU when its turn comes: less memory, same numbers.
    Default: with memory=smallest."""
    compile: bool = False
    """torch.compile the frozen blocks."""
    shard: bool = False
    """Spread the frozen blocks over all processes (FSDP2): each keeps its part, and a block is gathered when its turn
    comes. Less memory on every GPU, same numbers; needs more than one process to do anything."""

    @model_validator(mode="after")
    def _one_place(self) -> BackboneSettings:
        others = {"quantise": self.quantise != "none", "stream_weights": self.stream_weights, "compile": self.compile}
        for name, chosen in others.items():
            if self.shard and chosen:
                value = getattr(self, name)
                raise ValueError(f"shard does not go with {name}; got shard=True, {name}={value}. Set one of them only")
        return self


class SideSettings(Settings):
    """The trainable side network."""

    dialect: Literal["auto", "clip", "eva"] = "auto"
    """Which published variant the unset fields follow: clip is pre-norm, eva is post-norm with taps after every second
    block. auto: eva for post-norm EVA trunks, clip for everything else."""
    width: int = Field(default=320, ge=8)
    """Side width S."""
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads; default S // 64, at least 1. Must divide the width."""
    taps: str | list[int] | None = None
    """Frozen blocks to tap: all, every_second, top:N, or a list of 0-based indices. Default: the dialect's."""
    temporal: Literal["conv", "attention", "none"] = "conv"
    """How a side block mixes frames."""
    temporal_kernel: int = Field(default=3, ge=1)
    """Frames seen by the temporal convolution; odd."""
    shift: bool = True
    """Give each frame's attention its neighbours' class tokens (CLS-shift); off: the frame's own class token."""
    representation: Literal["gap", "class", "extra"] = "gap"
    """What becomes the clip's feature: mean over time and space, the frozen class token carried along, or a new one."""
    stem: bool = True
    """Start from a 3D patch convolution of the pixels; off: start from the first tap alone."""
    norm_order: Literal["pre", "post"] | None = None
    """Norm before or after each part of a side block. Default: the dialect's."""
    projection_norm: Literal["input", "output"] | None = None
    """Layer norm before or after the projection of the frozen tokens. Default: the dialect's."""
    norm: Literal["batch", "layer"] = "batch"
    """Norm around convolution and MLP. batch is the paper's; layer does not tie the clips of a batch together."""
    position_on_class: bool | None = None
    """Give the class token a position embedding too. Default: the dialect's: in retrieval with CLIP, else not."""
    final_norm: bool | None = None
    """Norm after the last side block. Default: the dialect's."""
    init: Literal["paper", "identity"] = "paper"
    """paper: the released initialisation. identity: every new side block starts as the identity."""

    @field_validator("temporal_kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be odd, so that a frame sees as far back as ahead; got {value}")
        return value

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SideSettings:
        heads = self.num_heads or max(1, self.width // 64)
        if self.width % heads:
            raise ValueError(
                f"num_heads must divide width; got width={self.width} and {heads} heads (default width // 64)"
            )
        return self


class DataSettings(Settings):
    """Clips, how frames are chosen, and what is done to them."""

    train: str | None = None
    """A folder of class folders, or a list file (CSV, TSV, JSONL, the released code's lists, Something-Something JSON,
    Kinetics CSV)."""
    val: str | None = None
    """The same for validation. Default: a share of the training clips, chosen by class and seed."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class that is held out when no validation set is given."""
    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each class's training clips to train on, chosen by train.seed; a smaller share lies inside a larger."""
    shots: int | None = Field(default=None, ge=1)
    """Few-shot: train on this many clips of each class, chosen as for fraction. Default: on all of them."""
    root: str | None = None
    """Folder that relative paths start from; lists are looked up there too. Default: the list file's folder."""
    format: Literal["auto", "folder", "table", "jsonl", "list", "something", "kinetics"] = "auto"
    """How to read train and val."""
    frame_pattern: str | None = None
    """File names inside a frame folder, such as `img_{:05d}.jpg` (numbered from 1)."""
    classes: str | None = None
    """File of class names: one a line, or CSV `id,name`."""
    min_frames: int = Field(default=0, ge=0)
    """Drop clips that a list file gives fewer frames, in training and validation; the paper drops below 8."""
    num_frames: int = Field(default=8, ge=1)
    """Frames T of a clip."""
    sampling: Literal["segment", "dense", "uniform"] = "segment"
    """segment: one frame from each of T equal parts (TSN, Something-Something). dense: a window of 128 frames.
    uniform: T frames spread over the video, as for Kinetics."""
    batch_size: int = Field(default=16, ge=1)
    """Videos per step and process; repeated augmentation multiplies it."""
    repeated_augmentation: int = Field(default=1, ge=1)
    """Differently augmented copies of each video in a batch."""
    resize: Literal["short", "squash"] = "short"
    """short: scale the short side; squash: to exactly 5:4 as Something-Something (320x256 for 224 px)."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the frame that a training crop covers."""
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    """Narrowest and widest aspect ratio of a training crop."""
    flip: Literal["off", "on", "swap"] = "off"
    """Mirror half of the training clips: never, always allowed, or swapping the labels listed in flip_pairs."""
    flip_pairs: str | list[tuple[str, str]] | None = None
    """Label pairs that a mirror exchanges: a list, a file with two names a line, or `something` for
    Something-Something's three."""
    grayscale: float = Field(default=0.0, ge=0, le=1)
    """Share of training clips turned grey."""
    rand_augment: str | None = None
    """RandAugment, the same for all frames of a clip, such as `m7-n4-mstd0.5-inc1`."""
    random_erasing: float = Field(default=0.0, ge=0, le=1)
    """Share of training clips with one erased rectangle."""
    mixup: float = Field(default=0.0, ge=0)
    """Mixup's alpha; 0 is off."""
    cutmix: float = Field(default=0.0, ge=0)
    """CutMix's alpha; 0 is off."""
    workers: int | Literal["auto"] = "auto"
    """Decoding processes. auto: one a core, less the one that trains, at most 8."""
    broken_tolerance: float = Field(default=0.05, ge=0, le=1)
    """Largest share of training videos that may be unreadable before training stops."""

    @model_validator(mode="after")
    def _fraction_or_shots(self) -> DataSettings:
        if self.shots is not None and self.fraction < 1:
            raise ValueError(f"shots and fraction exclude each other; got shots={self.shots}, fraction={self.fraction}")
        return self

    @field_validator("workers")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError(f"must be 0 or more, or auto; got {value}")
        return value

    @field_validator("crop_area", "crop_aspect")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"must be two positive numbers, the smaller first; got {value}")
        return value


class HeadSettings(Settings):
    """The linear classifier behind the side network; without effect in retrieval."""

    init: Literal["random", "text"] = "random"
    """random: as linear layers start. text: from the class names, through the backbone's text tower, so that classes
    with similar names start with similar weights."""
    templates: list[str] = ["a video of {}.", "a video of a person {}.", "{}"]
    """Sentences around a class name, at {}, whose embeddings are averaged; for init=text and zero-shot evaluation."""

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, value: list[str]) -> list[str]:
        wrong = [text for text in value if "{}" not in text]
        if wrong or not value:
            raise ValueError(f"each must have {{}} where the class name goes, and there must be one; got {value}")
        return value


class RetrievalSettings(Settings):
    """Text-video retrieval; without effect in recognition."""

    format: Literal["auto", "table", "jsonl", "msrvtt", "msvd", "vatex", "didemo", "lsmdc", "activitynet"] = "auto"
    """How to read data.train and data.val. auto: CSV or JSONL with video,caption[,start,end]; the others are folders
    with a data set's published caption files."""
    train_split: str = "train"
    """Split of a published data set to train on, such as train-7k of MSR-VTT."""
    val_split: str = "val"
    """Split of a published data set to validate on; without data.val, of the folder that data.train names."""
    missing: Literal["error", "leave_out"] = "error"
    """Videos that are not there: stop, or leave them out and say how many."""
    interaction: Literal["wti", "mean"] = "wti"
    """wti: weighted token-wise interaction of words and frames. mean: the cosine of sentence and mean frame."""
    interaction_width: int | None = Field(default=None, ge=1)
    """Hidden width of WTI's weighing networks. Default: the joint width; the released EVA models fix 1024."""
    video_mask: Literal["used", "released"] = "used"
    """Empty frames of short videos. used: left out. released: counted where the released code counts them (always with
    CLIP, in mean pooling with EVA)."""
    train_text: bool = True
    """Train the text tower too, slowly, as the paper does; off: it stays as it is, which saves memory."""
    max_words: int = Field(default=32, ge=3)
    """Tokens of a caption, start and end among them; longer captions are cut off with a warning."""
    captions: Literal["all", "one"] = "all"
    """Captions of a video that an epoch goes through: all of them, one by one, or one drawn anew each epoch. With all,
    a batch may hold a video twice, each as a wrong answer to the other's caption, as in the released code."""
    together: int = Field(default=1, ge=1)
    """Neighbouring captions of the list that always share a training batch, of which this must be a divisor. For lists
    that are ordered by scene, where neighbours differ in what happens alone and so are the answers to tell apart."""
    train_frames: Literal["strides", "seconds"] = "strides"
    """Frames in training. strides: a random one from each of T equal strides. seconds: one a second, from a random
    start; long videos are thinned, short ones leave empty frames."""
    test_frames: Literal["every", "centers"] = "every"
    """Frames in validation and evaluation. every: each (n//T)-th (MSR-VTT, MSVD). centers: of T equal parts (VATEX)."""
    chunk_size: int | None = Field(default=None, ge=1)
    """Embed a batch this many clips at a time, twice: the memory of that many clips, the exact gradient of the batch,
    a third more computing. Batch norm then sees a chunk at a time. Default: the whole batch at once."""
    pretrained_lr_ratio: float = Field(default=1e-3, ge=0)
    """Learning rate of what comes from the image-text model, as a multiple of the side network's."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of all steps that the rate rises from 0; it then follows a cosine down to 0."""
    gather_gradient: Literal["exact", "released"] = "exact"
    """Gradient through the embeddings gathered from all processes. released: 1/processes of it, as in the released
    code."""


class CacheSettings(Settings):
    """Frozen tokens on the disk: the backbone sees each view of a clip once, and later epochs only read."""

    dir: str | None = None
    """Folder of the cache, made when it is not there; it may serve many runs that differ in the side network or the
    optimiser. Default: no cache."""
    views: Literal["fixed"] | int = "fixed"
    """Views of each training clip. fixed: the one that validation would see, without augmentation. A number: so many
    draws of frames, crop and augmentation; epoch e sees view e modulo that number."""
    precision: Literal["own", "bf16", "int8"] = "own"
    """Of the stored tokens. own: the backbone's, exact. bf16: exact for a backbone in bf16. int8: approximate, with a
    scale for each token; half the room of bf16."""

    @field_validator("views")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be fixed or a whole number from 1; got {value}")
        return value


class OptimSettings(Settings):
    """Optimiser and schedule."""

    epochs: int = Field(default=30, ge=1)
    """Passes over the training set."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    side_lr_ratio: float = Field(default=1.0, ge=0)
    """Learning rate of the side network as a multiple of the head's."""
    weight_decay: float = Field(default=0.15, ge=0)
    """AdamW's weight decay."""
    decay_norm_and_bias: bool = True
    """Decay biases, norms and positions too, as the paper does."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas."""
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    warmup_epochs: float = Field(default=4.0, ge=0)
    """Epochs of linear warm-up from 0."""
    milestones: list[int] = []
    """Epochs after which multistep divides the rate by ten."""
    schedule_every: Literal["step", "official"] = "step"
    """official: re-evaluate the rate only at iterations 0, 9, 19, ... of an epoch, as the released code does."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the cross entropy."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per optimiser step. Batch norm sees one batch at a time: not the same gradient as a larger batch."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Clip the global gradient norm; off by default, as in the paper."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the trained weights, which is then what is evaluated and saved."""


class TrainSettings(Settings):
    """How the run runs."""

    seed: int = Field(default=0, ge=0)
    """Seed of weights, sample order, frame choice and augmentation."""
    precision: Precision = "auto"
    """Autocast precision of the side network. auto: bf16 on GPUs that have it, fp16 on older ones, fp32 on CPUs."""
    devices: int | Literal["auto"] = "auto"
    """Processes: GPUs, or CPU processes. auto: every GPU, or one CPU process."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to run."""
    sync_bn: bool = False
    """Batch norm statistics over all processes."""
    compile: bool = False
    """torch.compile the side network."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs between validations."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Also save the resume state every so many optimiser steps (always at the end of an epoch and on Ctrl-C)."""
    early_stop: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better top-1."""
    loggers: list[Literal["csv", "tensorboard", "wandb"]] = ["csv", "tensorboard"]
    """Where to write the curves."""

    @field_validator("devices")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be 1 or more, or auto; got {value}")
        return value
