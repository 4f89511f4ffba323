"""One inference engine, run in a process and an environment of its own; imports nothing of ours.

`engines` copies this file beside a job and starts it with the Python that has the engine: engines
want library versions of their own, and an export must work where this package is not. A new engine
is a function here that answers a job, in `ENGINES`; a job is a JSON file beside this one:

    {"engine": "transformers", "model": FOLDER, "sequences": [{"tokens": [...], "first": 90}],
     "texts": ["..."]}

The answers, in answers.npz: for each sequence the logits that predict tokens[first], tokens[first +
1] and so on, and one row beyond the last token; in answers.json: the engine's version, and the
tokens that it makes of each text. A server gives no logits, but "greedy" in answers.json: its own
tokens after each tokens[:first].
"""

from __future__ import annotations

import json
import runpy
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ENGINES", "main"]


def run_transformers(job: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Answer by one forward pass a sequence of the stock model, in float32 on the CPU."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"]).float().eval()
    logits = []
    with torch.no_grad():
        for each in job["sequences"]:
            hidden = model.base_model(torch.tensor([each["tokens"]]))[0]
            rows = model.get_output_embeddings()(hidden[0, each["first"] - 1 :])
            logits.append(rows.numpy())
    tokens = [tokenizer(text)["input_ids"] for text in job["texts"]]
    return logits, {"version": f"transformers {transformers.__version__}", "texts": tokens}


def run_llama_cpp(job: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Answer token by token, as llama.cpp decodes, with a float32 cache and no flash attention."""
    import llama_cpp

    longest = max(len(each["tokens"]) for each in job["sequences"])
    llm = llama_cpp.Llama(
        job["model"], n_ctx=longest, n_threads=1, n_threads_batch=1, flash_attn=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False,
    )  # fmt: skip
    logits = []
    for each in job["sequences"]:
        llm.reset()
        llm.eval(each["tokens"][: each["first"]])
        rows = [_last_logits(llm, llama_cpp)]
        for token in each["tokens"][each["first"] :]:
            llm.eval([token])
            rows.append(_last_logits(llm, llama_cpp))
        logits.append(np.stack(rows))
    tokens = [llm.tokenize(text.encode(), add_bos=True) for text in job["texts"]]
    return logits, {"version": f"llama-cpp-python {llama_cpp.__version__}", "texts": tokens}


def _last_logits(llm: Any, library: Any) -> np.ndarray:
    last = library.llama_get_logits_ith(llm.ctx, -1)
    return np.ctypeslib.as_array(last, shape=(llm.n_vocab(),)).copy()


def ask_llama_server(job: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Answer by llama.cpp's own HTTP server, which xllamacpp carries: greedy tokens, no logits."""
    import xllamacpp

    longest = max(len(each["tokens"]) for each in job["sequences"])
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = job["model"], longest + 8, 1
    params.n_gpu_layers, params.cpuparams.n_threads, params.verbosity = 0, 1, 1
    params.warmup = params.fit_params = False
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.hostnames, params.port = ["127.0.0.1"], 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise RuntimeError(
            "llama.cpp does not load this file (above: why). Where it counts a wrong number of "
            "tensors, its code for this family reads no longrope factors (Qwen3's does not): "
            "train with linear, ntk or yarn-original for it"
        ) from error
    greedy = []
    for each in job["sequences"]:
        prompt, wanted = each["tokens"][: each["first"]], len(each["tokens"]) - each["first"]
        named = {"prompt": prompt, "n_predict": wanted, "temperature": 0, "ignore_eos": True,
                "return_tokens": True, "cache_prompt": False}  # fmt: skip
        found = _post(server.listening_address, "/completion", named)
        if found["tokens_evaluated"] != len(prompt):
            raise RuntimeError(f"read {found['tokens_evaluated']} of {len(prompt)} prompt tokens")
        greedy.append(found["tokens"])
    texts = [
        _post(server.listening_address, "/tokenize", {"content": text, "add_special": True})
        for text in job["texts"]
    ]
    version = f"llama.cpp's server in xllamacpp {xllamacpp.__version__}"
    about = {"version": version, "texts": [one["tokens"] for one in texts], "greedy": greedy}
    return [], about


def _post(address: str, path: str, content: dict[str, Any]) -> dict[str, Any]:
    asked = urllib.request.Request(
        address + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=600) as answer:
        return json.load(answer)


def convert(job: dict[str, Any]) -> None:
    """Run llama.cpp's own converter with a given pre-tokenizer, and complete its file.

    The converter knows pre-tokenizers by a hash over one text; `pre` names the one to write down
    where it knows none. For longrope it writes neither factors nor attention factor unless the
    family is Phi-3, while llama.cpp reads them for many: `longrope` holds them.
    """
    tree = Path(job["tree"])
    sys.path[:0] = [str(tree / "gguf-py"), str(tree)]
    plain = job["file"] + ".plain"
    converter = runpy.run_path(str(tree / "convert_hf_to_gguf.py"), run_name="converter")
    if job["pre"]:
        _set_pre_tokenizer(converter, job["pre"])
    sys.argv = ["convert_hf_to_gguf.py", job["model"], "--outfile", plain,
                "--outtype", job["outtype"]]  # fmt: skip
    converter["main"]()
    if job["longrope"]:
        complete(plain, job["file"], job["longrope"])
        Path(plain).unlink()
    else:
        Path(plain).rename(job["file"])


def _set_pre_tokenizer(converter: dict[str, Any], name: str) -> None:
    """Answer with `name` where the converter's class would end with "not recognized"."""
    modules = [module for key, module in sys.modules.items() if key.startswith("conversion")]
    spaces = [converter, *(vars(module) for module in modules)]
    for kind in {v for space in spaces for v in space.values() if isinstance(v, type)}:
        known = vars(kind).get("get_vocab_base_pre")
        if known is None:
            continue

        def named(self: Any, tokenizer: Any, known: Any = known) -> str:
            """Return what the converter recognizes, else the given name, and say so."""
            try:
                return known(self, tokenizer)
            except NotImplementedError:
                print(f"pre-tokenizer not recognized: written down as {name}, as asked for")
                return name

        kind.get_vocab_base_pre = named


def complete(plain: str, whole: str, longrope: dict[str, Any]) -> None:
    """Copy a GGUF file and add longrope's factors, attention factor and original length to it."""
    import gguf

    reader = gguf.GGUFReader(plain)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(whole, arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_rope_scaling_attn_factors(longrope["attention_factor"])
    if f"{arch}.rope.scaling.original_context_length" not in reader.fields:
        writer.add_rope_scaling_orig_ctx_len(longrope["original_max_position_embeddings"])
    for kind in ("long", "short"):
        factors = np.array(longrope[f"{kind}_factor"], dtype=np.float32)
        writer.add_tensor(f"rope_factors_{kind}.weight", factors)
    for each in reader.tensors:
        writer.add_tensor(each.name, each.data, raw_dtype=each.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


ENGINES = {
    "transformers": run_transformers,
    "llama.cpp": run_llama_cpp,
    "llama-server": ask_llama_server,
}


def main(file: Path) -> None:
    """Answer the job in a file, beside it."""
    job = json.loads(file.read_text(encoding="utf-8"))
    if job["engine"] == "convert":
        convert(job)
        return
    logits, about = ENGINES[job["engine"]](job)
    np.savez(file.with_name("answers.npz"), *logits)
    about["ours"] = sorted(name for name in sys.modules if name.split(".")[0] == "cream")
    file.with_name("answers.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
