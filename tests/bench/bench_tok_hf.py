#!/usr/bin/env python3
"""Measure Hugging Face `tokenizers` on the texts of bench_tok and print how much faster or slower ours is.

    python3 tests/bench/bench_tok_hf.py build/bin/bench_tok build/v4_tokenizer [runs]

Both run on one thread, on this machine, one after the other. The package gets each text whole, as ours does, and a
second time in short chunks, which it likes better. The numbers of tokens of the whole must be the same, else exit 1.
Exit 0 with a line that says so when the package is not installed.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"


CHUNK = 2000  # characters; the package is at its best with short texts


def measure_chunks(tokenizer, text, runs):
    chunks = [text[i:i + CHUNK] for i in range(0, len(text), CHUNK)]
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        for chunk in chunks:
            tokenizer.encode_batch_fast([chunk], add_special_tokens=False)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(tokenizer, text, runs):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        encoding = tokenizer.encode(text, add_special_tokens=False)
        times.append(time.perf_counter() - start)
    return statistics.median(times), len(encoding.ids)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    program, folder = sys.argv[1:3]
    runs = int(sys.argv[3]) if len(sys.argv) == 4 else 5
    try:
        import tokenizers
    except ImportError:
        print("the package tokenizers is not installed: nothing to compare with")
        return 0
    same = True
    with tempfile.TemporaryDirectory() as texts:
        command = [program, "--tokenizer", folder, "--texts", texts, "--runs", str(runs)]
        lines = [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]
        start = time.perf_counter()
        tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        load_ms = (time.perf_counter() - start) * 1e3
        for ours in lines:
            if ours["bench"] == "tok_open":
                print(json.dumps({"bench": "tok_open", "ms": ours["ms"], "hf_ms": round(load_ms, 1),
                                  "times_faster": round(load_ms / ours["ms"], 1)}))
                continue
            text = (pathlib.Path(texts) / (ours["text"] + ".txt")).read_bytes().decode()
            seconds, n_tokens = measure(tokenizer, text, runs)
            chunk_seconds = measure_chunks(tokenizer, text, runs)
            same = same and n_tokens == ours["tokens"]
            print(json.dumps({"text": ours["text"], "mb_s": ours["mb_s"],
                              "hf_mb_s": round(len(text.encode()) / seconds / 1e6, 1),
                              "times_faster": round(seconds * 1e3 / ours["ms"], 1),
                              "hf_chunks_mb_s": round(len(text.encode()) / chunk_seconds / 1e6, 1),
                              "times_faster_than_chunks": round(chunk_seconds * 1e3 / ours["ms"], 1),
                              "tokens": ours["tokens"], "hf_tokens": n_tokens, "hf": tokenizers.__version__}),
                  flush=True)
    if not same:
        print("the numbers of tokens differ", file=sys.stderr)
    return 0 if same else 1


sys.exit(main())
