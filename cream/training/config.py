"""The configuration of one fine-tuning run: its fields, what they may hold, and its JSON.

What belongs here: checks that need neither model nor data, so that a typing error costs nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cream import positions, rope
from cream.positions import METHODS
from cream.positions.registry import check_options
from cream.utils.options import check_choice, check_flag, check_number, check_text, check_whole
from cream.utils.text_files import read_text

__all__ = ["GROUPS", "TrainConfig", "closest", "describe_fields", "grouped_fields", "read_config"]

CHOICES = {
    "method": METHODS,
    "scaling": rope.KINDS,
    "precision": ("auto", "float32", "bfloat16", "master"),
    "offload": ("auto", "none", "moments"),
    "zero": ("auto", 0, 1, 2, 3),
    "zero_offload": ("auto", "none", "optimizer", "all"),
    "save_dtype": ("float32", "bfloat16"),
    "compile": ("auto", "none", "layers", "model"),
    "lora_train": ("none", "norms", "embeddings", "embeddings+norms"),
    "base_bits": (16, 4),
    "float8": ("none", "tensorwise", "rowwise"),
    "float8_layers": ("auto", "all"),
}
MOST = 2**31 - 1
RANGES = {
    "steps": (1, MOST), "batch_size": (1, MOST), "micro_batch": (1, MOST), "log_steps": (1, MOST),
    "seed": (0, 2**32 - 1), "save_steps": (0, MOST), "probe_steps": (0, MOST),
    "workers": (0, 1024), "warmup_steps": (0, MOST), "scale": (1, MOST // 2),
    "lora_rank": (0, 65_536), "lora_alpha": (0, 1_000_000), "train_window": (0, MOST),
}  # fmt: skip


GROUPS = {
    "model": "the pre-trained model, and what is saved of it",
    "data": "the corpus, and how it is read",
    "positions": "the sampler and the RoPE scaling",
    "optimisation": "AdamW and its schedule",
    "memory": "precision, and how a run fits its devices",
    "adapters": "LoRA by peft",
    "log": "checkpoints and what is logged",
}


def _in(group: str, meaning: str, default: object = dataclasses.MISSING, **more: Any) -> Any:
    """Declare a field of `TrainConfig`: its group (one of GROUPS), its meaning, its default."""
    return field(default=default, metadata={"group": group, "meaning": meaning}, **more)


_model, _data, _positions, _optimisation, _memory, _adapters, _log = (
    functools.partial(_in, group) for group in GROUPS
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every number of one fine-tuning run, in the groups of GROUPS; presets are named ones.

    `python -m cream.presets --help` prints the fields with their meanings. ValueError names a value
    of the wrong type or out of bounds, and what it may be.
    """

    base: str = _model("a folder, or a hub id", kw_only=False)
    revision: str | None = _model("of the hub model", None)
    attention: str = _model("auto, a name of transformers, or a kernel of models.attention", "auto")
    save_dtype: str = _model("of model/: float32 or bfloat16", "float32")

    corpus: str = _data("a folder that cream.data.corpus made", kw_only=False)
    seed: int = _data("of the examples' order and positions", 0)
    workers: int = _data("data loader processes", 0)

    method: str = _positions("which tokens are read and the positions they are assigned", "cream")
    scaling: str = _positions("RoPE scaling", "linear")
    scale: int = _positions("s = L / N, N the base's own window; max_factor of clex", 8)
    train_window: int = _positions(
        "tokens an example, for bases whose window is too long to train on: a divisor of s N, at "
        "most N; 0: N. RoPE is stretched by s all the same, and positions reach s N", 0
    )  # fmt: skip
    sampler_options: dict = _positions("of the method", default_factory=dict)
    scaling_options: dict = _positions("fields of the kind's class", default_factory=dict)

    steps: int = _optimisation("optimizer steps", 1000)
    batch_size: int = _optimisation("examples a step, over all processes and accumulation", 32)
    learning_rate: float = _optimisation("reached after the warm-up, then linearly to 0", 2e-5)
    warmup_steps: int = _optimisation("steps from 0 to the learning rate", 10)
    weight_decay: float = _optimisation("of AdamW", 0.0)
    adam_betas: tuple[float, float] = _optimisation("of AdamW", (0.9, 0.999))
    max_grad_norm: float = _optimisation("to which gradients are clipped; 0: they are not", 1.0)
    clex_grad_norm: float = _optimisation(
        "to which the gradients of CLEX's two matrices are clipped by themselves, before all are "
        "clipped together; 0: only with the others, as published", 0.0
    )  # fmt: skip

    micro_batch: int = _memory("examples a forward pass on one device", 32)
    precision: str = _memory(
        "float32; bfloat16: computed in it, float32 weights cast at every forward pass; master: "
        "bfloat16 weights, float32 masters in the optimizer (large models); auto: by device", "auto"
    )  # fmt: skip
    gradient_checkpointing: bool = _memory("recompute every layer in the backward pass", False)
    recompute: int | str = _memory(
        "in the backward pass, with precision master: 0 nothing, cheap: element-wise results of "
        "compiled layers, a number: also that many whole layers, auto: as memory demands", 0
    )  # fmt: skip
    offload: str = _memory(
        "with precision master: moments (AdamW's, in RAM), none, or auto: as memory demands", "auto"
    )
    zero: int | str = _memory(
        "DeepSpeed's ZeRO over the processes: 1 shards AdamW's states and the masters, 2 gradients "
        "too, 3 weights too, 0 nothing; auto: the least that fits, 0 for one process and for small "
        "models", "auto",
    )  # fmt: skip
    zero_offload: str = _memory(
        "of ZeRO, in RAM: none, optimizer (AdamW's states and masters), all (weights too) or auto",
        "auto",
    )
    compile: str = _memory("none, layers, model (CUDA graphs); auto: by device and steps", "auto")
    float8: str = _memory(
        "products of the decoder's linear layers in 8 bits, by torchao: none, tensorwise (the "
        "faster) or rowwise (the finer)", "none"
    )  # fmt: skip
    float8_layers: str = _memory("all, or auto: those that are faster in 8 bits", "auto")

    lora_rank: int = _adapters("train adapters of this rank (8 to 64) on a frozen base; 0: all", 0)
    lora_alpha: int = _adapters("adapters count alpha / rank times; 0: alpha is twice the rank", 0)
    lora_targets: str = _adapters('all-linear, or names such as "q_proj,v_proj"', "all-linear")
    lora_train: str = _adapters("trained whole: none, norms, embeddings, embeddings+norms", "none")
    base_bits: int = _adapters("4: the frozen base in 4 bits, by bitsandbytes on CUDA", 16)

    save_steps: int = _log("steps between checkpoints; 0: none", 0)
    log_steps: int = _log("steps between lines of metrics.jsonl", 10)
    probe: str | None = _log("module:function, called with the model and the tokenizer", None)
    probe_steps: int = _log("steps between probes; 0: never", 0)

    def __post_init__(self) -> None:
        if isinstance(self.adam_betas, list):  # as JSON and YAML have it
            object.__setattr__(self, "adam_betas", tuple(self.adam_betas))
        for name, hint in _type_hints(type(self)).items():
            _check_type(name, getattr(self, name), hint)
        _check_ranges(self)
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; it must lie in [0, steps = {self.steps})"
            )
        _check_memory_settings(self)
        _check_sharding(self)
        _check_lora(self)
        _check_float8(self)
        rope.scaling(self.scaling, self.scale, **self.scaling_options)
        _check_clex(self)
        _check_train_window(self)
        # Of examples shorter than N the sampler's scale is s N / train_window, so 2 at least.
        least = max(self.scale, 2) if self.train_window else self.scale
        check_options(self.method, least, self.sampler_options)

    @property
    def rope(self) -> rope.RopeScaling:
        """The RoPE scaling of the run."""
        return rope.scaling(self.scaling, self.scale, **self.scaling_options)

    def sampler(self, window: int) -> positions.Sampler:
        """Return the run's sampler for a base of window N: `train_window` tokens, positions to s N.

        The sampler's own scale is s N over the tokens of an example. ValueError names what to
        change where train_window is longer than the base's window or does not divide s N, or where
        N is wrong.
        """
        tokens, target = self.train_window or window, self.scale * window
        if self.train_window:
            _check_divides(self, window)
        return positions.sampler(self.method, tokens, target // tokens, **self.sampler_options)

    def accumulation(self, processes: int) -> int:
        """Return how many forward passes of each of `processes` make a step of `batch_size`.

        ValueError where a step's examples cannot be shared out evenly.
        """
        passes, rest = divmod(self.batch_size, self.micro_batch * processes)
        if rest or not passes:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch "
                f"{self.micro_batch} x {processes} processes; change one of them"
            )
        return passes

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed holds the optimizer; False while `zero` is not settled."""
        return self.zero in (1, 2, 3)

    def deciding(self) -> dict[str, Any]:
        """Return the fields that decide the weights, as JSON has them.

        Not those that say how the same step is computed (micro_batch, workers, zero, compile) and
        what is logged and saved: of them a resumed run may have others, though transformers goes on
        by the checkpoint's log_steps and save_steps. Of method clex micro_batch counts: the
        examples of one forward pass have one t.
        """
        alike = {"workers", "attention", "save_dtype"}
        kept = [
            one.name for one in dataclasses.fields(self)
            if one.metadata["group"] not in ("memory", "log") and one.name not in alike
        ]  # fmt: skip
        kept += ["precision", "float8", "float8_layers"]
        kept += ["micro_batch"] if self.method == "clex" else []
        found = json.loads(self.to_json())
        return {name: found[name] for name in kept}

    def to_json(self) -> str:
        """Return the configuration as JSON, one field a line."""
        plain = json.dumps(dataclasses.asdict(self), indent=2, default=lambda each: each.item())
        return plain + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read what `to_json` wrote; ValueError names a field that is unknown or missing."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("config.json does not hold the fields of a run")
        fields = {f.name for f in dataclasses.fields(cls)}
        if unknown := [closest(name, fields) for name in sorted(set(values) - fields)]:
            raise ValueError(f"config.json has unknown fields: {', '.join(unknown)}")
        if missing := [name for name in ("base", "corpus") if name not in values]:
            raise ValueError(f"config.json lacks {' and '.join(missing)}")
        return cls(**values)


def _check_ranges(config: TrainConfig) -> None:
    """Refuse numbers, names and choices out of their range."""
    for name in ("base", "corpus", "attention"):
        check_text(name, getattr(config, name))
    for name, (least, most) in RANGES.items():
        check_whole(name, getattr(config, name), least, most)
    for name, choices in CHOICES.items():
        check_choice(name, getattr(config, name), choices)
    check_number("learning_rate", config.learning_rate, 0, 1, above=True)
    check_number("weight_decay", config.weight_decay, 0)
    check_number("max_grad_norm", config.max_grad_norm, 0, note="0 does not clip")
    check_number("clex_grad_norm", config.clex_grad_norm, 0, note="0: as all others")
    for place, beta in enumerate(config.adam_betas):
        check_number(f"adam_betas[{place}]", beta, 0, 1 - 1e-9)


_type_hints = functools.cache(typing.get_type_hints)  # a plan makes hundreds of configurations


def _check_type(name: str, value: object, hint: object) -> None:
    if hint in (int, float):
        return  # `_check_ranges` does these
    if hint is bool:
        check_flag(name, value)
        return
    if hint == tuple[float, float]:
        good = isinstance(value, tuple) and len(value) == 2
    else:
        good = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
    if not good:
        wanted = hint.__name__ if isinstance(hint, type) else str(hint)
        raise ValueError(f"{name} is {value!r}; it must be of type {wanted}")


def _check_memory_settings(config: TrainConfig) -> None:
    """Refuse what cannot be had together of precision, recompute, offload and compile."""
    again = config.recompute
    if again not in ("auto", "cheap") and not (isinstance(again, int) and again >= 0):
        raise ValueError(f"recompute is {again!r}; choose auto, cheap or a number of layers from 0")
    if config.precision != "master":
        for name in ("recompute", "offload"):
            if (value := getattr(config, name)) not in (0, "auto", "none"):
                raise ValueError(
                    f"{name} is {value!r} and precision {config.precision!r}; only 'master' has it"
                )
        return
    if config.compile == "model":
        raise ValueError("compile is 'model' and precision 'master'; choose 'layers' or 'none'")
    if again == "cheap" and config.compile == "none":
        raise ValueError("recompute is 'cheap', which compiled layers do; compile is 'none'")
    if again != 0 and config.gradient_checkpointing:
        raise ValueError(
            f"recompute is {again!r} and gradient_checkpointing recomputes all layers; set one"
        )


def _check_sharding(config: TrainConfig) -> None:
    """Refuse what DeepSpeed does not do, or does not do together with our own optimizer."""
    zero, place = config.zero, config.zero_offload
    if place in ("optimizer", "all") and (zero == 0 or config.precision == "auto"):
        raise ValueError(f"zero_offload is {place!r}, which ZeRO does; set zero to 1, 2 or 3")
    if place == "all" and zero in (1, 2):
        raise ValueError(f"zero_offload is 'all', for zero 3 alone; zero is {zero}")
    if zero in ("auto", 0):
        return
    if config.precision not in ("master", "float32"):
        raise ValueError(
            f"zero is {zero} and precision {config.precision!r}; choose 'master' (bfloat16 "
            "weights, float32 masters) or 'float32'"
        )
    if config.offload == "moments":
        raise ValueError(f"offload is 'moments' and zero {zero}; choose zero_offload='optimizer'")
    if config.compile == "model":
        raise ValueError(f"compile is 'model' and zero {zero}; choose 'layers' or 'none'")
    if zero == 3 and config.probe and config.probe_steps:
        raise ValueError(
            "probe_steps is set and zero 3: one process asks, and none has the weights; choose "
            "zero 2 or probe_steps 0"
        )


def _check_lora(config: TrainConfig) -> None:
    """Refuse fields of LoRA without a rank, and what does not go with it."""
    if not config.lora_rank:
        for name, usual in (("lora_alpha", 0), ("lora_targets", "all-linear"),
                            ("lora_train", "none"), ("base_bits", 16)):  # fmt: skip
            if (value := getattr(config, name)) != usual:
                raise ValueError(f"{name} is {value!r}, which is of LoRA; set lora_rank (16, say)")
        return
    if not config.lora_targets.strip(", "):
        raise ValueError("lora_targets is empty; take 'all-linear' or names of linear layers")
    if config.zero not in ("auto", 0) or config.zero_offload not in ("auto", "none"):
        raise ValueError(
            f"zero is {config.zero!r}, zero_offload {config.zero_offload!r}, and lora_rank "
            f"{config.lora_rank}: LoRA's optimizer is small and is not sharded; leave both 'auto'"
        )
    if config.base_bits == 4 and config.precision == "float32":
        raise ValueError("base_bits is 4 and precision 'float32'; choose 'master' or 'bfloat16'")


def _check_clex(config: TrainConfig) -> None:
    """Refuse what CLEX cannot be trained with: another sampler's positions, CUDA graphs."""
    if config.scaling != "clex":
        if config.clex_grad_norm:
            raise ValueError(
                f"clex_grad_norm is {config.clex_grad_norm} and scaling {config.scaling!r}, which "
                "has no matrices of CLEX; leave it 0"
            )
        return
    if config.method != "clex":
        raise ValueError(
            f"scaling is 'clex' and method {config.method!r}: only the sampler 'clex' draws the "
            "factor t that the frequencies follow; set method to 'clex'"
        )
    if config.compile == "model":
        raise ValueError("compile is 'model' and scaling 'clex', whose t varies; choose 'layers'")
    if config.lora_rank:
        raise ValueError(
            f"lora_rank is {config.lora_rank} and scaling 'clex', whose two matrices no adapter "
            "holds; set lora_rank to 0, or choose another scaling"
        )
    if config.sharded:
        raise ValueError(
            f"zero is {config.zero} and scaling 'clex', whose two matrices stay float32 beside "
            "bfloat16 weights, which DeepSpeed does not shard: train on one GPU with zero 0, or on "
            "several with precision 'bfloat16'"
        )


def _check_float8(config: TrainConfig) -> None:
    """Refuse float8 beside what it was not tested with."""
    if config.float8 == "none":
        if config.float8_layers != "auto":
            raise ValueError("float8_layers is 'all' and float8 'none'; choose float8 'tensorwise'")
        return
    beside = {
        "precision": (config.precision, ("master", "bfloat16"), "'master' or 'bfloat16'"),
        "compile": (config.compile, ("auto", "layers"), "'layers'"),
        "lora_rank": (config.lora_rank, (0,), "0"),
        "zero": (config.zero, ("auto", 0), "0"),
        "zero_offload": (config.zero_offload, ("auto", "none"), "'none'"),
        "gradient_checkpointing": (config.gradient_checkpointing, (False,), "recompute instead"),
        "probe_steps": (config.probe_steps if config.probe else 0, (0,), "0"),
    }
    for name, (value, allowed, instead) in beside.items():
        if value not in allowed:
            raise ValueError(
                f"float8 is {config.float8!r} and {name} {value!r}, which was not tested together; "
                f"choose {instead}, or float8 'none'"
            )


def _check_train_window(config: TrainConfig) -> None:
    """Refuse what no base's window makes right; `_check_divides` does the rest."""
    if config.train_window and config.method == "full":
        raise ValueError(
            f"train_window is {config.train_window} and method 'full', whose examples have all "
            "s N tokens; leave train_window at 0"
        )
    if config.train_window and config.method == "clex":
        raise ValueError(
            f"train_window is {config.train_window} and method 'clex', whose positions reach t "
            "times the base's own window N; leave train_window at 0 and set sampler_options to "
            f"{{'tokens': {config.train_window}}}"
        )


def _check_divides(config: TrainConfig, window: int) -> None:
    """Refuse a train_window longer than the base's window N, or that does not divide s N."""
    tokens, target = config.train_window, config.scale * window
    if tokens > window:
        raise ValueError(
            f"train_window is {tokens:,} and the base's window {window:,}: an example has at most "
            "as many tokens as the base has read; choose less, or 0 for all of it"
        )
    if target % tokens or target == tokens and config.method != "plain":
        near = [n for n in range(min(window, target // 2), 0, -1) if target % n == 0]
        raise ValueError(
            f"train_window is {tokens:,}, which must be a proper divisor of the target length "
            f"{config.scale} x {window:,} = {target:,}; choose {', '.join(map(str, near[:4]))}"
        )


def grouped_fields() -> dict[str, list[dataclasses.Field]]:
    """Return the fields of `TrainConfig` by group, in the order in which they are declared."""
    grouped: dict[str, list[dataclasses.Field]] = {group: [] for group in GROUPS}
    for one in dataclasses.fields(TrainConfig):
        grouped[one.metadata["group"]].append(one)
    return grouped


def describe_fields() -> str:
    """Return what `--help` prints of the fields: a paragraph a group, a field its type, default."""
    return "\n\n".join(
        "\n".join([f"{group}: {GROUPS[group]}", *(line for one in found for line in _lines(one))])
        for group, found in grouped_fields().items()
    )


def _lines(one: dataclasses.Field) -> Iterator[str]:
    """A field's name, default and meaning, in lines of 96 characters."""
    default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
    usual = "" if default is dataclasses.MISSING else f" ({default})"
    yield from textwrap.wrap(one.metadata["meaning"], 96, subsequent_indent=" " * 36,
                             initial_indent=f"  {one.name}{usual}".ljust(36))  # fmt: skip


def closest(name: str, fields: set[str]) -> str:
    """Return an unknown field's name, with the one that may have been meant."""
    near = difflib.get_close_matches(name, fields, 1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def read_config(run_dir: str | Path) -> TrainConfig:
    """Read config.json of a run directory; the error names the file and what is wrong in it."""
    path = Path(run_dir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; `python -m cream.presets NAME {run_dir}` writes one, and "
            "notebooks/02_train.ipynb does when it trains"
        )
    try:
        return TrainConfig.from_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
