"""Standard short benchmarks through lm-evaluation-harness, unpatched: is little lost by extending?

What belongs here: which tasks with how many shots, the harness around a model of ours, and its
samples as rows. Where there is no hub, `harness_task` makes a small task in its form. The harness
is optional (`pip install -e ".[evaluation]" -c constraints.txt`); its tasks score, not we, but for
RULER's (`harness_ruler`).

The release (protocols 5.8) scores without a BOS, in the versions 0.4.2 of the same tasks; here it
is 0.4.13, whose boolq, piqa, winogrande, hellaswag and arc_challenge have the same versions, and
whose truthfulqa_mc2 (3 for 2) takes the labels where 2 took the order of the answers.
"""

import contextlib
import copy
import difflib
import functools
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from cream.data.chat import UserTurn, at_fixed_date
from cream.data.corpus import tokenizer_hash
from cream.evaluation import harness_ruler
from cream.evaluation.model_spec import Loaded, ModelSpec, ServedModel
from cream.inference.prompt_tokens import appended
from cream.models import load_tokenizer
from cream.results import Rows
from cream.rope.length import depends_on_length
from cream.statistics import by_method, match, paired_difference
from cream.utils.launcher import whole
from cream.utils.provenance import hash_of

__all__ = [
    "SHOTS",
    "Policy",
    "differences",
    "evaluate_models",
    "installed",
    "main_metric",
    "table",
    "task_names",
]

# The paper's six tasks and their few-shot examples (protocols 5.8).
SHOTS = {
    "boolq": 0,
    "piqa": 0,
    "winogrande": 0,
    "truthfulqa_mc2": 0,
    "hellaswag": 10,
    "arc_challenge": 25,
}
FOLDERS = ("arc", "hellaswag", "piqa", "super_glue", "truthfulqa", "winogrande")  # of the harness
NORMALISED = ("hellaswag", "arc_challenge", "next_passage")  # reported as acc_norm, by convention
FEWSHOT_SEED = 1234  # the harness's own default
INSTALL = (
    'lm-evaluation-harness is not installed: pip install -e ".[evaluation]" -c constraints.txt'
)


@dataclass(frozen=True)
class Policy:
    """What of the asking decides the scores, beside the task.

    `bos` puts a BOS before each prompt, which the release does not; `chat` asks in the tokenizer's
    own chat template, few-shot examples as earlier turns; `limit` takes the first documents only.
    """

    bos: bool = False
    chat: bool = False
    limit: int | None = None

    def settings(self) -> dict[str, object]:
        """For a row's settings; the documents' own prompts say what `limit` does."""
        style = {"style": "chat"} if self.chat else {"style": "bos"} if self.bos else {}
        bos = "template" if self.chat else "add_special_tokens" if self.bos else "none"
        return {"bos": bos, "chat": self.chat, **style}


def installed() -> bool:
    """Whether lm-evaluation-harness is there."""
    return importlib.util.find_spec("lm_eval") is not None


def _harness(module: str = "lm_eval") -> ModuleType:
    """Import a module of lm-evaluation-harness; ImportError with the command that installs it."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    # It warns of what is meant here: a loaded model, a given number of shots.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return found


def evaluate_models(
    specs: Sequence[ModelSpec | ServedModel],
    names: Sequence[str],
    rows: str | Path,
    policy: Policy | None = None,
    batch_size: int | None = None,
    lengths: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Put every model through the tasks, one row a document and metric; return these rows.

    `names` are tasks of the harness or files in its YAML form; `lengths` in tokens are those of
    RULER's tasks, cut by the first model's tokenizer. `batch_size` None is found by the harness on
    CUDA, 8 elsewhere. A killed evaluation, started again, asks the harness's cache for what was
    scored, and keeps whole tasks that have their rows. ValueError for unknown tasks and prompts
    beyond a model's window; ConnectionError for data that do not come.
    """
    policy = policy or Policy()
    if whole("WORLD_SIZE", 1) > 1:
        raise ValueError("the harness is run in one process: start 08_benchmarks without torchrun")
    if served := [one.name for one in specs if not isinstance(one, ModelSpec)]:
        raise ValueError(
            f"{', '.join(served)} is behind a server, and these tasks need log-likelihoods of "
            "given answers: name a checkpoint"
        )
    for spec in specs:
        _check_ending(spec, policy)
    tasks, frames = _tasks(specs, names, lengths), []
    for spec in specs:
        loaded = spec.load()
        model = _wrapped(loaded, policy, batch_size)
        with Rows(rows, loaded.header) as file:
            keys = [key for task in tasks for key in _answer(model, task, loaded, file, policy)]
            frame = file.frame()
        frames.append(frame[frame["key"].isin(keys)])
        del loaded, model
    return pd.concat(frames, ignore_index=True)


def _tasks(
    specs: Sequence[ModelSpec], names: Sequence[str], lengths: Sequence[int] | None
) -> list[Any]:
    """All tasks, those of RULER once for each length; refused before anything is loaded."""
    place = specs[0].path if specs else ""
    harness_ruler.check(names, lengths, place)
    long = [name for name in names if harness_ruler.is_ruler(name)]
    hashes = {tokenizer_hash(load_tokenizer(one.path)): one.name for one in specs if long}
    if len(hashes) > 1:
        raise ValueError(f"{', '.join(hashes.values())} have different tokenizers: ask RULER's "
                         "tasks of each on its own")  # fmt: skip
    short = [name for name in names if name not in long]
    found = _load(short) if short or not long else []
    return found + [harness_ruler.build(name, length, place, _harness)
                    for name in long for length in lengths or ()]  # fmt: skip


def _check_ending(spec: ModelSpec, policy: Policy) -> None:
    """Refuse to ask with BOS by a tokenizer that also ends each prompt: the harness keeps both."""
    tokenizer = load_tokenizer(spec.path)
    if policy.bos and (ending := tokenizer.convert_ids_to_tokens(appended(tokenizer))):
        raise ValueError(
            f"bos is true and the tokenizer of {spec.name} also appends {' '.join(ending)} to "
            "every text, so that answers would be scored behind an end token: set bos to false, "
            "or remove the ending from its post-processor (add_eos_token)"
        )


def task_names(text: str, root: str | Path = ".") -> list[str]:
    """Split names of tasks and YAML files with commas between; relative files start at `root`."""
    listed = [name.strip() for name in text.split(",") if name.strip()]
    return [str(Path(root) / name) if _is_file(name) else name for name in listed]


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _load(names: Sequence[str]) -> list[Any]:
    """The harness's task objects, few-shot examples set; their data come from the hub or disk."""
    if not (listed := list(names)):
        raise ValueError(f"tasks names no task: use for example {','.join(SHOTS)}")
    files = [name for name in listed if _is_file(name)]
    if absent := [name for name in files if not Path(name).is_file()]:
        raise FileNotFoundError(f"there is no task file {absent[0]}")
    named = set(listed) - set(files)
    manager = _manager(() if not named else FOLDERS if named <= set(SHOTS) else None)
    for name in named - set(manager.all_subtasks):
        near = difflib.get_close_matches(name, manager.all_subtasks, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the paper's: {', '.join(SHOTS)}"
        raise ValueError(f"the harness has no task {name!r}; {hint}")
    found = {name: task for one in listed for name, task in _built(manager, one).items()}
    for name, task in found.items():
        if name in SHOTS or task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=SHOTS.get(name, 0))
    return list(found.values())


@functools.cache
def _manager(folders: tuple[str, ...] | None) -> Any:
    """The harness's index of its tasks in some folders, None for all: thousands, half a minute."""
    tasks = _harness("lm_eval.tasks")
    if folders is None:
        return tasks.TaskManager()
    places = [Path(tasks.__file__).parent / folder for folder in folders]
    return tasks.TaskManager(include_path=places, include_defaults=False)


def _built(manager: Any, name: str) -> dict[str, Any]:
    try:
        return manager.load([name])["tasks"]
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"the data of {name} did not come ({error}): the harness's own tasks need the Hugging "
            "Face Hub, or its cache from an earlier run"
        ) from error


def _wrapped(loaded: Loaded, policy: Policy, batch_size: int | None) -> Any:
    """The harness's own wrapper around the loaded model, which it would otherwise load itself."""
    wrapper = _harness("lm_eval.models.huggingface").HFLM
    on_cuda = loaded.model.device.type == "cuda"
    assert isinstance(loaded.model, PreTrainedModel)
    tokenizer = copy.deepcopy(loaded.tokenizer)  # it may be given a pad token
    if policy.chat and (fixed := at_fixed_date(tokenizer)):
        tokenizer.chat_template = fixed
    if depends_on_length(loaded.model.config):
        batch_size = 1  # in a batch, the longest document would decide for all
    return wrapper(
        pretrained=loaded.model,
        tokenizer=tokenizer,
        batch_size=batch_size or ("auto" if on_cuda else 8),
        add_bos_token=policy.bos,
    )


def _answer(model: Any, task: Any, loaded: Loaded, rows: Rows, policy: Policy) -> list[str]:
    """Score one task unless all its rows are there; their keys."""
    template = UserTurn(loaded.tokenizer).settings if policy.chat else {}
    prompts = _prompts(model, task, policy)
    settings = {**loaded.settings, **policy.settings(), **_about(task), **template}
    name = task.config.task
    length = harness_ruler.length_of(task) if harness_ruler.is_ruler(name) else None
    placed = {"token_length": length} if length else {}
    metrics = [str(length)] if length else [one["metric"] for one in task.config.metric_list]

    def key(sample: int, metric: str) -> str:
        return rows.key(name, prompts[sample], sample, {**settings, "mode": metric})

    keys = {key(sample, metric): (sample, metric) for sample in prompts for metric in metrics}
    if not rows.missing(keys):
        return list(keys)
    _refuse_beyond(model, task)
    with _cache(model, rows.path, hash_of(rows.header["model_hash"], settings)) as cache:
        for sample in _evaluated(model, task, policy, cache):
            found = _row(name, sample)
            if found["prompt_hash"] != prompts[found["sample"]]:
                raise RuntimeError(f"{name} wrote other prompts than it showed: a fault of ours")
            for metric in metrics:
                how = {**settings, "mode": metric}
                value = harness_ruler.score(name, sample) if length else sample[metric]
                rows.append({**found, **placed, "settings": how, "score": value})
    return list(keys)


def _prompts(model: Any, task: Any, policy: Policy) -> dict[int, str]:
    """The hash of what is asked about each document.

    All are built in their order, always: each takes the next few-shot examples of one stream.
    """
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    chat = {"chat_template": model.apply_chat_template, "tokenizer_name": model.tokenizer_name}
    with _quiet(), _quiet(contextlib.redirect_stderr):
        task.build_all_requests(
            limit=policy.limit,
            apply_chat_template=policy.chat,
            fewshot_as_multiturn=policy.chat,
            **(chat if policy.chat else {}),
        )
    asked: dict[int, list[tuple]] = {}
    for one in task.instances:
        asked.setdefault(one.doc_id, []).append(one.args)
    return {sample: hash_of(args) for sample, args in asked.items()}


def _refuse_beyond(model: Any, task: Any) -> None:
    """Refuse (ValueError) prompts beyond the window, which the harness would cut on the left.

    Every one is tokenized: how long a text is in characters does not say how many tokens it has.
    """
    every = [one.args for one in task.instances]
    texts = {"".join(part for part in args if isinstance(part, str)) for args in every}
    longest = max(len(model.tok_encode(text)) for text in texts)
    room = max((_answer_tokens(part, model) for args in every for part in args
                if isinstance(part, dict)), default=0)  # fmt: skip
    if longest + room > model.max_length:
        asked_for = f" and {room} to answer" if room else ""
        raise ValueError(
            f"a prompt of {task.config.task} has {longest} tokens{asked_for}, more than the "
            f"model's window of {model.max_length}: ask with fewer shots, or extend the model"
        )


def _answer_tokens(generation: Mapping[str, Any], model: Any) -> int:
    """What the harness keeps free of the window: its own number where a task names none."""
    read = _harness("lm_eval.models.utils").normalize_gen_kwargs
    return read(dict(generation), model.max_gen_toks)["max_gen_toks"]


def _about(task: Any) -> dict[str, object]:
    return {
        "harness": f"lm_eval {_harness().__version__}",
        "task_version": str(task.VERSION),
        "shots": task.config.num_fewshot,
        "fewshot_seed": FEWSHOT_SEED,
    }


def _evaluated(model: Any, task: Any, policy: Policy, cache: str) -> list[dict[str, Any]]:
    """The samples of one task as `simple_evaluate` logs them."""
    with _quiet():
        found = _harness().simple_evaluate(
            model=model,
            tasks=[task],
            limit=policy.limit,
            use_cache=cache,
            bootstrap_iters=0,
            apply_chat_template=policy.chat,
            fewshot_as_multiturn=policy.chat,
            fewshot_random_seed=FEWSHOT_SEED,
            task_manager=_manager(()),
        )
    return found["samples"][task.config.task]


def _row(name: str, sample: Mapping[str, Any]) -> dict[str, object]:
    """What a document's rows have in common; the prediction is what the harness got of the model.

    For multiple choice that is the log-likelihood of each answer, in their order.
    """
    answers = sample["filtered_resps"]
    if all(isinstance(one, tuple | list) and len(one) == 2 for one in answers):
        answers = [round(float(one[0]), 4) for one in answers]
    return {
        "task": name,
        "sample": sample["doc_id"],
        "prompt_hash": hash_of([tuple(args) for args in sample["arguments"]]),
        "prediction": json.dumps(answers, default=str),
        "target": str(sample["target"]),
    }


@contextlib.contextmanager
def _cache(model: Any, rows: Path, name: str) -> Iterator[str]:
    """The harness's cache of answers, beside the rows; kept only until a task has its rows."""
    path = rows.parent / f".{rows.stem}.{name}"
    try:
        yield str(path)
    finally:
        if model.cache_hook.dbdict is not None:
            model.cache_hook.dbdict.close()
    for left in rows.parent.glob(f"{path.name}_rank*.db*"):
        left.unlink()


@contextlib.contextmanager
def _quiet(redirect: Any = contextlib.redirect_stdout) -> Iterator[None]:
    """Without what the harness prints, of its batch size; its progress bars go to stderr."""
    with open(os.devnull, "w") as nowhere, redirect(nowhere):
        yield


# ------------------------------------------------------------------------------ reading the rows


def main_metric(task: str) -> str:
    """The metric a task is reported by: length-normalised accuracy where that is the custom."""
    return "acc_norm" if task in NORMALISED else "acc"


def _metrics(frame: pd.DataFrame) -> pd.Series:
    return frame["settings"].map(lambda text: json.loads(text)["mode"])


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a model, task and metric: value, low, high, n (95 %, over documents).

    RULER's metrics are named by their length in tokens, as in the harness.
    """
    found = by_method(frame.assign(metric=_metrics(frame)), ["task", "metric"])
    long = found["task"].map(harness_ruler.is_ruler)
    return found.assign(main=long | (found["metric"] == found["task"].map(main_metric)))


def differences(frame: pd.DataFrame, against: str = "original") -> pd.DataFrame:
    """One row a model and task: its main metric less that of `against`, in pairs of documents.

    Empty where `against` was not asked.
    """
    frame = frame[_metrics(frame) == frame["task"].map(main_metric)]
    models = ["method", "scaling", "scale", "run", "task"]
    base, found = frame[frame["method"] == against], []
    for (*model, task), part in frame[frame["method"] != against].groupby(models, dropna=False):
        other = base[base["task"] == task]
        if len(other):
            found.append((*model, task, *paired_difference(*match(part, other), span=1)))
    return pd.DataFrame(found, columns=[*models, "difference", "low", "high", "n"])
