"""What the end-to-end tests share: real processes with a guaranteed end, a checking SSE client, a small checkpoint.

Environment: BATON_BIN (folder of the binaries), BATON_MODEL (folder of the checkpoint, made when missing), and
BATON_TEST_SCALE (a factor on waits and down on sizes, for sanitizer builds).
"""
import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BIN = os.path.abspath(os.environ.get("BATON_BIN", os.path.join(ROOT, "build", "bin")))
MODEL = os.path.abspath(os.environ.get("BATON_MODEL", os.path.join(os.path.dirname(BIN), "e2e_model")))
SCALE = float(os.environ.get("BATON_TEST_SCALE", "1"))

# Small enough for about a millisecond a token with the scalar back end, and every kind of layer is there once. The
# vocabulary is that of tests/tiny_tokenizer.
OVERRIDES = {
    "vocab_size": 4096, "num_hidden_layers": 3, "num_hash_layers": 1, "compress_ratios": [0, 4, 128],
    "hidden_size": 128, "num_attention_heads": 2, "q_lora_rank": 128, "o_lora_rank": 128, "o_groups": 1,
    "index_n_heads": 2, "n_routed_experts": 4, "moe_intermediate_size": 128,
}

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Failure(Exception):
    """The test found what it looks for."""


def check(good, what):
    if not good:
        raise Failure(what)


def make_model(out=MODEL):
    """A random checkpoint with the small tokenizer; made beside its place and moved there, so never half of one."""
    if os.path.exists(os.path.join(out, "tokenizer.json")):
        return out
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(out)) as tmp:
        new = os.path.join(tmp, "model")
        args = [sys.executable, os.path.join(ROOT, "tests", "tools", "make_checkpoint.py"), new, "--preset", "tiny",
                "--seed", "7"]
        for key, value in OVERRIDES.items():
            args += ["--set", f"{key}={json.dumps(value)}"]
        subprocess.run(args, check=True, stdout=subprocess.DEVNULL)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(ROOT, "tests", "tiny_tokenizer", name), new)
        shutil.rmtree(out, ignore_errors=True)
        os.rename(new, out)
    return out


def binary(name):
    return os.path.join(BIN, name)


def _child_setup():
    # If this test is killed, what it started is killed too.
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """Process ids below pid. Read before the parent ends: orphans are no one's children."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{entry}/stat") as f:
                    children.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def wait_for(what, good, seconds, step=0.01):
    """Wait until good() is true; its value. `seconds` grows with BATON_TEST_SCALE."""
    end = time.monotonic() + seconds * SCALE
    while True:
        value = good()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {seconds * SCALE:g} s")
        time.sleep(step)


class Process:
    """One process; its stdout line by line, its stderr in memory. Killed when the with block ends."""

    def __init__(self, name, args, env=None):
        self.name = name
        self.out, self.err = [], []
        self.p = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  preexec_fn=_child_setup, env=dict(os.environ, **(env or {})))
        self.pid = self.p.pid
        self.changed = threading.Condition()
        self.threads = [threading.Thread(target=self._read, args=(pipe, to), daemon=True)
                        for pipe, to in ((self.p.stdout, self.out), (self.p.stderr, self.err))]
        for t in self.threads:
            t.start()

    def _read(self, pipe, to):
        for line in pipe:
            with self.changed:
                to.append(line.decode(errors="replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def line(self, start, seconds=30):
        """First line of stdout that begins with `start`."""
        end = time.monotonic() + seconds * SCALE
        with self.changed:
            while True:
                for line in self.out:
                    if line.startswith(start):
                        return line
                left = end - time.monotonic()
                if left <= 0 or (self.p.poll() is not None and not self.threads[0].is_alive()):
                    raise Failure(f"{self.name}: no line '{start}...'; status {self.p.poll()}; stderr:\n" +
                                  "\n".join(self.err[-20:]))
                self.changed.wait(min(left, 0.2))

    def send(self, sig):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, sig)

    def wait(self, seconds=20):
        """Exit status as in subprocess (negative: signal). All output has been read."""
        try:
            status = self.p.wait(seconds * SCALE)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name}: still running after {seconds * SCALE:g} s; stderr:\n" +
                          "\n".join(self.err[-20:])) from None
        for t in self.threads:
            t.join(5)
        return status

    def end(self):
        if self.p.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
        self.p.wait()
        for t in self.threads:
            t.join(5)
        self.p.stdout.close()
        self.p.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def check_reports(*processes):
    """No sanitizer had anything to say, whatever else the test looks at."""
    for p in processes:
        report = [line for line in p.err if "Sanitizer" in line or "runtime error:" in line]
        check(not report, f"{p.name}: " + "\n".join(report))


def status(url):
    """What `baton ps --json` prints, without the process."""
    return json.loads(request(url, "GET", "/v1/status")[1])


def request(url, method, path, body=None, seconds=30, headers=None, heads=False):
    """Status and body, with heads the headers as well."""
    host = url.removeprefix("http://")
    c = http.client.HTTPConnection(host, timeout=seconds * SCALE)
    try:
        c.request(method, path, None if body is None else json.dumps(body),
                  {"Content-Type": "application/json", **(headers or {})})
        r = c.getresponse()
        return (r.status, r.read(), dict(r.getheaders())) if heads else (r.status, r.read())
    finally:
        c.close()


class Service:
    """A controller and workers as processes of the test itself, so that it decides who dies and who comes."""

    def __init__(self, workers=2, controller_args=(), worker_args=()):
        self.controller_args = list(controller_args)
        self.worker_args = list(worker_args)
        self.workers = {}
        self.gone = []
        self.controller = self._controller("0", "tcp://127.0.0.1:*")
        try:
            ready = self.controller.line("ready ").split()
            self.url, self.endpoint = ready[1], ready[3]
            for i in range(workers):
                self.start_worker(f"w{i}", wait=False)
            if workers:
                self.wait_ready(workers)
        except BaseException:
            self.end()
            raise

    def _controller(self, port, endpoint, *more):
        return Process("controller", [binary("baton-controller"), "--model", MODEL, "--port", port, "--workers",
                                      endpoint, "--die-with-parent", *self.controller_args, *more])

    def kill_controller(self, sig=signal.SIGKILL):
        self.controller.send(sig)
        self.controller.wait()
        self.gone.append(self.controller)

    def start_controller(self):
        """Again, on the ports that clients and workers know."""
        self.controller = self._controller(self.url.rsplit(":", 1)[1], self.endpoint)
        self.controller.line("ready ")

    def start_worker(self, name, wait=True):
        before = self.epoch(name) if wait else 0
        old = self.workers.pop(name, None)
        if old:
            self.gone.append(old)
        self.workers[name] = Process(name, [binary("baton-worker"), "--model", MODEL, "--connect", self.endpoint,
                                            "--name", name, "--backend", "ref", "--die-with-parent",
                                            *self.worker_args])
        if wait:
            wait_for(f"{name} ready", lambda: self.state(name) == "ready" and self.epoch(name) > before, 30)
        return self.workers[name]

    def rows(self):
        return status(self.url)["workers"]

    def row(self, name):
        """The newest stay of a worker, or None."""
        mine = [w for w in self.rows() if w["name"] == name]
        return max(mine, key=lambda w: w["epoch"]) if mine else None

    def state(self, name):
        row = self.row(name)
        return row["state"] if row else None

    def epoch(self, name):
        row = self.row(name)
        return row["epoch"] if row else 0

    def wait_ready(self, n):
        def enough():
            for p in (self.controller, *self.workers.values()):
                check(p.p.poll() is None, f"{p.name} ended with {p.p.poll()}:\n" + "\n".join(p.err[-20:]))
            return sum(w["state"] == "ready" for w in self.rows()) >= n
        wait_for(f"{n} workers ready", enough, 30)

    def busy(self, seconds=10):
        """Name of a worker that has work assigned."""
        return wait_for("a busy worker", lambda: next((w["name"] for w in self.rows()
                                                       if w["state"] == "ready" and w["assigned"] > 0), None),
                        seconds, 0.001)

    def kill(self, name, sig=signal.SIGKILL):
        self.workers[name].send(sig)

    def end(self):
        for p in (*self.workers.values(), *self.gone):
            p.end()
        self.controller.end()

    def check_clean_but_killed(self):
        """The same where the test itself has killed some."""
        self.check_clean([p for p in (self.controller, *self.workers.values()) if p.p.poll() is None])

    def check_clean(self, processes=None):
        """Stop in good order and see that each process says so: 0, and in sanitizer builds no report."""
        for p in processes or (self.controller, *self.workers.values()):
            p.send(signal.SIGTERM)
            code = p.wait(30)
            check(code == 0, f"{p.name} ended with {code} after SIGTERM:\n" + "\n".join(p.err[-30:]))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            for p in (self.controller, *self.workers.values()):
                print(f"--- {p.name} (status {p.p.poll()}), last lines:", *p.err[-15:], sep="\n", file=sys.stderr)
        self.end()
        if kind is None:
            check_reports(self.controller, *self.workers.values(), *self.gone)


class Up:
    """`baton up` as an operator runs it."""

    def __init__(self, *args, workers=2):
        self.p = Process("up", [binary("baton"), "up", "--model", MODEL, "--port", "0", "--workers", str(workers),
                                "--backend", "ref", "--die-with-parent", *args])
        self.below = []
        try:
            self.url = self.p.line("ready ", 60).split()[1]
        except BaseException:
            self.end()
            raise

    def note_children(self):
        self.below = sorted(set(self.below) | set(descendants(self.p.pid)))
        return self.below

    def end(self):
        self.note_children()
        if self.p.p.poll() is None:
            self.p.send(signal.SIGTERM)
            with contextlib.suppress(Failure):
                self.p.wait(20)
        self.p.end()
        left = [pid for pid in self.below if alive(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        check_reports(self.p)
        return left

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Stream:
    """One streamed chat completion, read event by event and checked against the contract (docs/spec/api.md 4.3)."""

    def __init__(self, url, n_tokens, prompt="Tell me about rivers.", seed=None, temperature=0.0, seconds=120,
                 headers=None, **more):
        self.body = {"model": more.pop("model", None) or os.path.basename(MODEL), "stream": True,
                     "messages": [{"role": "user", "content": prompt}], "max_tokens": n_tokens, "ignore_eos": True,
                     "temperature": temperature, "logprobs": True, "stream_options": {"include_usage": True}, **more}
        if seed is not None:
            self.body["seed"] = seed
        self.tokens = []         # (token, bytes, logprob) in order, one per generated token
        self.text, self.reasoning = "", ""
        self.comments = []
        self.error, self.finish, self.usage = None, None, None
        self.finished = set()    # choices that have had their last chunk
        self.ids = set()
        self.last_id = None      # of the last whole event
        self.done = False
        self.longest_pause = 0.0  # between two tokens
        self.last_token_at = None
        self.seconds = seconds * SCALE
        self.headers = dict(headers or {})
        self.raw = []            # (id, data line) of each event, to compare byte for byte
        self.broken = False      # the connection ended before its time
        self._open(url, "POST", "/v1/chat/completions", json.dumps(self.body), self.headers)

    def _open(self, url, method, path, body, headers):
        host, port = url.removeprefix("http://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=self.seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = http.client.HTTPConnection(host, int(port))
        self.connection.sock = self.socket
        self.connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        self.response = self.connection.getresponse()
        self.http_status = self.response.status
        if self.http_status != 200:
            self.error = json.loads(self.response.read())["error"]

    def resume(self, url, by_id=False):
        """Come back after the connection broke: the same POST with its key, or a GET of the id."""
        self.close()
        self.broken = False
        headers = dict(self.headers)
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        if by_id:
            headers["Accept"] = "text/event-stream"
            self._open(url, "GET", "/v1/chat/completions/" + next(iter(self.ids)), None, headers)
        else:
            self._open(url, "POST", "/v1/chat/completions", json.dumps(self.body), headers)
        return self

    def events(self):
        """Parsed events as they come: ("data", object), ("comment", text), ("done", None)."""
        data = event_id = None
        while self.error is None:
            try:
                line = self.response.readline()
            except (ConnectionError, http.client.HTTPException):
                line = b""
            if not line:
                self.broken = not self.done
                return
            line = line.decode().rstrip("\r\n")  # strict: each event is whole UTF-8
            if line.startswith(":"):
                self.comments.append((time.monotonic(), line[1:].strip()))
                yield "comment", line[1:].strip()
            elif line.startswith("data: "):
                check(data is None, "two data lines in one event")
                data = line
            elif line.startswith("id: "):
                event_id = line[4:]
            elif line == "" and data is not None:
                check(not self.done, "an event after [DONE]")
                self.raw.append((event_id, data))
                self.last_id = event_id or self.last_id
                if data == "data: [DONE]":
                    self.done = True
                    yield "done", None
                else:
                    yield "data", self._take(json.loads(data[6:]))
                data = event_id = None
            else:
                check(line == "" or line.startswith("retry: "), f"a line that is no event: {line[:80]}")

    def _take(self, event):
        if "error" in event:
            self.error = event["error"]
            return event
        self.ids.add(event["id"])
        check(len(self.ids) == 1, f"chunks of several ids: {self.ids}")
        if event.get("usage"):
            self.usage = event["usage"]
        for choice in event["choices"]:
            check(choice["index"] not in self.finished, "a chunk after the last one")
            if choice["finish_reason"]:
                self.finished.add(choice["index"])
            delta = choice["delta"]
            self.text += delta.get("content") or ""
            self.reasoning += delta.get("reasoning_content") or ""
            entries = (choice.get("logprobs") or {}).get("content") or []
            if entries:
                now = time.monotonic()
                if self.last_token_at is not None:
                    self.longest_pause = max(self.longest_pause, now - self.last_token_at)
                self.last_token_at = now
            for e in entries:
                self.tokens.append((e["token"], tuple(e["bytes"] or ()), e["logprob"]))
            self.finish = choice["finish_reason"] or self.finish
        return event

    def read(self, on_token=None):
        """To the end. on_token(n) is called whenever n tokens have come in all, and after the prompt with 0."""
        seen = -1
        for _ in self.events():
            if on_token and len(self.tokens) > seen:
                seen = len(self.tokens)
                on_token(seen)
        self.close()
        return self

    def check_whole(self, n_tokens):
        check(self.error is None, f"stream failed: {self.error}")
        check(self.done, f"stream broke off after {len(self.tokens)} tokens")
        check(self.finish == "length", f"finish_reason {self.finish}")
        check(len(self.tokens) == n_tokens, f"{len(self.tokens)} tokens, {n_tokens} expected")
        check(self.usage and self.usage["completion_tokens"] == n_tokens, f"usage {self.usage}")
        return self

    def result(self):
        """What must be equal between an undisturbed run and any other, bit for bit."""
        return self.text, self.reasoning, tuple(self.tokens), self.finish

    def close(self):
        self.response.close()
        self.connection.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def compare(got, want, what):
    """Say where two results part, if they do."""
    if got == want:
        return
    for i, (a, b) in enumerate(zip(got[2], want[2])):
        check(a == b, f"{what}: token {i} is {a}, undisturbed {b}")
    raise Failure(f"{what}: text or number of tokens differs: {len(got[2])} and {len(want[2])} tokens, "
                  f"{got[0][:60]!r} and {want[0][:60]!r}")


def in_parallel(n, work):
    """work(i) in n threads; results in order, or the first error."""
    results, errors = [None] * n, []

    def one(i):
        try:
            results[i] = work(i)
        except Exception as e:  # noqa: BLE001 - handed on below
            errors.append(e)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return results


def main(*tests):
    """Run test functions (all, or those named on the command line), say how long each took, exit 1 if one failed."""
    make_model()
    chosen = [t for t in tests if t.__name__ in sys.argv[1:]] or tests
    for t in chosen:
        began = time.monotonic()
        try:
            said = t()
        except Failure as e:
            print(f"FAIL {t.__name__}: {e}", flush=True)
            sys.exit(1)
        print(f"ok   {t.__name__} {time.monotonic() - began:.1f} s{': ' + said if said else ''}", flush=True)


if __name__ == "__main__":
    print(make_model())
