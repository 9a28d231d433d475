#!/usr/bin/env python3
"""Proves: the second turn of a conversation goes to the worker that has the first in its prefix cache and computes only
the rest, with the tokens of a worker that has nothing; a busy worker's cache does not draw everybody; what a worker has
is known again after its epoch was over; without a cache nothing is told and all works as before.
"""
import json
import os
import signal

from harness import MODEL, SCALE, Service, Stream, check, main, request, wait_for

WORDS = "river stone light north winter paper garden signal market window copper engine".split()


def text(n, salt):
    return " ".join(WORDS[(i * 7 + salt * 5 + i // 11) % len(WORDS)] for i in range(n))


def turn(s, messages, n=12):
    body = {"model": os.path.basename(MODEL), "messages": messages, "max_tokens": n, "ignore_eos": True,
            "temperature": 0, "logprobs": True}
    code, got = request(s.url, "POST", "/v1/chat/completions", body, seconds=60 * SCALE)
    check(code == 200, f"status {code}: {got}")
    return json.loads(got)


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


class Counts:
    """Which worker ran a turn, by the tokens in the heartbeats, which come a little later."""

    def __init__(self, s):
        self.s, self.known = s, {w["name"]: 0 for w in s.rows()}

    def who_ran(self, n=12):
        """The one turn since the last call made n tokens."""
        def settled():
            now = {w["name"]: w["tokens_total"] for w in self.s.rows() if w["state"] == "ready"}
            return now if sum(now.values()) == sum(self.known.values()) + n else None
        now = wait_for("the workers' counts", settled, 10)
        who = [k for k in now if now[k] != self.known[k]]
        check(len(who) == 1, f"one turn on {who}")
        self.known = now
        return who[0]


def second_turn_finds_the_first():
    with Service(2, worker_args=["--max-seqs", "4", "--max-context", "4096"]) as s, \
            Service(1, worker_args=["--saved-states", "0", "--max-context", "4096"]) as plain:
        counts = Counts(s)
        for c in range(4):
            messages = [{"role": "user", "content": text(220, c)}]
            first = turn(s, messages)
            check(cached(first) == 0, f"a first turn had {cached(first)} tokens cached")
            home = counts.who_ran()
            wait_for("the digest", lambda: s.row(home)["prefixes"] > 0, 10)
            messages += [{"role": "assistant", "content": first["choices"][0]["message"]["content"]},
                         {"role": "user", "content": "And then?"}]
            second = turn(s, messages)
            check(counts.who_ran() == home, f"conversation {c}: the second turn went elsewhere")
            n = second["usage"]["prompt_tokens"]
            check(cached(second) >= first["usage"]["prompt_tokens"] - 128 and cached(second) < n,
                  f"conversation {c}: {cached(second)} of {n} tokens cached")
            alone = turn(plain, messages)
            check(cached(alone) == 0, "a worker without a cache has something cached")
            for key in ("message", "logprobs"):
                check(second["choices"][0][key] == alone["choices"][0][key], f"conversation {c}: another {key}")
            again = turn(s, messages)  # the same once more: one row of prefill
            check(cached(again) == n - 1, f"{cached(again)} of {n} tokens cached")
            check(counts.who_ran() == home, f"conversation {c}: the same again went elsewhere")
            check(again["choices"][0]["logprobs"] == second["choices"][0]["logprobs"], "another answer the second time")
        row = s.rows()[0]
        check(row["kv_block_bytes"] > 0 and row["seq_bytes"] > 0, "no sizes in the worker's row")
        check(plain.rows()[0]["prefixes"] == 0, "prefixes of a worker that has no cache")
        s.check_clean()
        plain.check_clean()


def load_wins():
    with Service(2, worker_args=["--max-seqs", "4", "--max-context", "4096"]) as s:
        messages = [{"role": "user", "content": text(150, 1)}]
        counts = Counts(s)
        turn(s, messages)
        home = counts.who_ran()
        wait_for("the digest", lambda: s.row(home)["prefixes"] > 0, 10)
        # Four streams with the same beginning: the first ones follow the cache, then the load is worth more.
        streams = [Stream(s.url, 1500, text(150, 1)) for _ in range(4)]
        spread = wait_for("four streams under way",
                          lambda: (lambda a: a if sum(a.values()) == 4 else None)(
                              {w["name"]: w["assigned"] for w in s.rows()}), 10)
        check(min(spread.values()) >= 1, f"all four went after the cache: {spread}")
        check(spread[home] >= 2, f"the cache drew nobody: {spread}")
        for stream in streams:
            stream.close()
        wait_for("idle", lambda: all(w["assigned"] == 0 for w in s.rows()), 20)
        s.check_clean()


def known_after_a_new_stay():
    """A worker that was asleep for long is fenced; when it comes back it tells what it still has."""
    with Service(1, worker_args=["--max-context", "4096"]) as s:
        first = turn(s, [{"role": "user", "content": text(220, 2)}])
        n_block = first["usage"]["prompt_tokens"] // 128
        wait_for("the digest", lambda: s.row("w0")["prefixes"] >= n_block, 10)
        epoch = s.epoch("w0")
        s.kill("w0", signal.SIGSTOP)
        wait_for("the loss", lambda: s.state("w0") == "lost", 10)
        s.kill("w0", signal.SIGCONT)
        wait_for("a new stay", lambda: s.state("w0") == "ready" and s.epoch("w0") > epoch, 20)
        wait_for("the digest again", lambda: s.row("w0")["prefixes"] >= n_block, 10)
        got = turn(s, [{"role": "user", "content": text(220, 2)}])
        check(cached(got) == got["usage"]["prompt_tokens"] - 1, f"{cached(got)} tokens cached")
        s.check_clean()


if __name__ == "__main__":
    main(second_turn_finds_the_first, load_wins, known_after_a_new_stay)
