"""Speed and faults of the controller beside other routers, in one run: ./run bench control [flags].

Baton runs with two `--engine sim` workers (known tokens, no model), once as it is and, where it has --store, once with
the durable store; nginx, haproxy and vllm-router run with two mock_worker upstreams. The same checking load client
(load_client.c) asks all of them. JSON lines go to --out, a table of medians to stdout. Peers that are not installed are
skipped, with the reason. Figures depend on the machine: compare only within one run, as ratios. Standard library only.
"""
import argparse
import bisect
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("BATON_BIN", HERE.parent.parent / "build" / "bin")).resolve()
PATH = "/v1/chat/completions"
VLLM_ROUTER = "vllm-router==0.1.17"

# Arguments of the load client. c: not streamed, one token; s: streams; big: 400 kB of prompt.
LOADS = {
    "c1": ["-c", 1, "-n", 20000, "--secs", 2, "--warm", 20],
    "c32": ["-c", 32, "-n", 200000, "--secs", 2.5, "--warm", 64],
    "big": ["-c", 4, "-n", 20000, "--secs", 1.5, "--warm", 8, "--prompt-bytes", 400000],
    "ttft": ["-c", 1, "-n", 40, "--stream", "--tokens", 20, "--itl-us", 2000, "--warm", 5],
    "s64": ["-c", 64, "-n", 64, "--stream", "--tokens", 100, "--itl-us", 20000, "--stagger-us", 311],
    "flood": ["-c", 32, "-n", 32, "--stream", "--tokens", 1000, "--itl-us", 0],
    "s256": ["-c", 256, "-n", 256, "--stream", "--tokens", 20, "--itl-us", 100000, "--stagger-us", 389],
}
KILL = ["-c", 64, "-n", 64, "--stream", "--tokens", 200, "--itl-us", 20000, "--stagger-us", 500]
HELD = ["-c", 16, "-n", 16, "--stream", "--itl-us", 20000]

# Row, what it is, the unit, the target (without store, with store), is less better.
ROWS = [
    ("1", "added p50, c=1", "us", (120, 180), True),
    ("2", "requests/s, c=32", "", (25000, 20000), False),
    ("3", "CPU per request, c=32", "us", (40, 40), True),
    ("4", "400 kB prompts, MB/s a core", "", None, False),
    ("5", "SSE relay p50", "us", (50, 50), True),
    ("5b", "SSE relay p99", "us", (160, 160), True),
    ("6", "CPU per chunk", "us", (25, 25), True),
    ("7", "flood, tokens/s", "", (100000, 100000), False),
    ("8", "time to first token, kept", "us", (300, 300), True),
    ("9", "memory, 256 streams", "MiB", (20, 20), True),
    ("10", "SIGKILL of a worker: whole of 64", "", (64, 64), False),
    ("10b", "  longest gap p99", "ms", (45, 45), True),
    ("12", "SIGKILL of the router: whole of 64", "", (None, 64), False),
    ("12b", "  serving again after", "s", (None, 0.3), True),
    ("13", "no worker for 3 s: whole of 16", "", (16, 16), False),
    ("14", "frozen worker: whole of 16", "", (16, 16), False),
    ("14b", "  longest gap", "ms", (1020, 1020), True),
    ("15", "returned worker used again after", "s", (0.2, 0.2), True),
    ("16", "after a death: failed of 400", "", (0, 0), True),
    ("16b", "  p99", "us", (1000, 1000), True),
    ("17", "client leaves, worker free after", "ms", (10, 10), True),
    ("18", "calls for one Idempotency-Key twice", "", (None, 1), True),
]


# ---- processes ----------------------------------------------------------------------------------------------------


def free_ports(n):
    """n ports of 127.0.0.1 that were free a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def spawn(args, log):
    with open(log, "ab") as f:
        return subprocess.Popen([str(a) for a in args], stdout=f, stderr=f, stdin=subprocess.DEVNULL,
                                start_new_session=True)


def end(p, sig=signal.SIGKILL):
    if p is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(p.pid, sig)
    p.wait()


def tree(pid):
    kids, out, todo = {}, [], [pid]
    for p in os.listdir("/proc"):
        if p.isdigit():
            with contextlib.suppress(OSError):
                text = open(f"/proc/{p}/stat").read()
                kids.setdefault(int(text[text.rindex(")") + 2:].split()[1]), []).append(int(p))
    while todo:
        out.append(todo.pop())
        todo += kids.get(out[-1], [])
    return out


def cpu_s(pid):
    """CPU seconds of all threads below pid; nanoseconds where the kernel counts them."""
    total = 0
    for p in tree(pid):
        for task in pathlib.Path(f"/proc/{p}/task").glob("*"):
            with contextlib.suppress(OSError, ValueError):
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


def pss_mib(pid):
    total = 0
    for p in tree(pid):
        with contextlib.suppress(OSError):
            for line in open(f"/proc/{p}/smaps_rollup"):
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def get(port, path):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        c.request("GET", path)
        return json.loads(c.getresponse().read())
    finally:
        c.close()


def post(port, prompt, key=None, stream=False, n=1):
    """Status of one request; 0: nobody there."""
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    body = {"model": "mock", "max_tokens": n, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        c.request("POST", PATH, json.dumps(body), headers)
        r = c.getresponse()
        r.read()
        return r.status
    except OSError:
        return 0
    finally:
        c.close()


def load(port, *args):
    cmd = [BIN / "load_client", "--base-url", f"http://127.0.0.1:{port}", *args]
    r = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, timeout=170)
    if r.returncode:
        raise RuntimeError(f"load_client: {r.stderr.strip()}")
    return json.loads(r.stdout)


class Background:
    """The load client while the test does something to the server."""

    def __init__(self, port, *args):
        self.p = subprocess.Popen([str(a) for a in (BIN / "load_client", "--base-url", f"http://127.0.0.1:{port}",
                                                    *args)], stdout=subprocess.PIPE, text=True)

    def result(self):
        return json.loads(self.p.communicate(timeout=170)[0])


# ---- what is measured ---------------------------------------------------------------------------------------------


class Stand:
    """A router with two upstreams."""

    def __init__(self, name):
        self.name = name
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="baton-bench-"))
        self.router, self.worker = None, [None, None]
        self.port, self.side, *self.upstream = free_ports(4)

    def start(self):
        self.stop()
        for i in (0, 1):
            self.start_worker(i)
        time.sleep(0.2)
        return self.start_router()

    def start_router(self, limit=30):
        began, good = time.monotonic(), 0
        self.router = spawn(self.command(), self.dir / "router.log")
        while time.monotonic() - began < limit:
            good = good + 1 if post(self.port, "[[id=0,n=1]] hello") == 200 else 0
            if good == 1:
                first = time.monotonic() - began
            if good == 4:
                return first
            if self.router.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError(f"{self.name} does not serve:\n" + open(self.dir / "router.log").read()[-800:])

    def stop(self):
        end(self.router)
        for w in self.worker:
            end(w)
        self.router, self.worker = None, [None, None]

    def close(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


class Peer(Stand):
    """One of the others, in front of two mock workers."""

    def __init__(self, name, command):
        super().__init__(name)
        self.make_command = command

    def command(self):
        return self.make_command(self)

    def start_worker(self, i):
        end(self.worker[i])
        self.worker[i] = spawn([BIN / "mock_worker", "--port", self.upstream[i], "--name", f"w{i}"],
                               self.dir / f"w{i}.log")

    def stats(self, key):
        return [get(p, "/stats")[key] for p in self.upstream]

    def relay(self, args):
        return load(self.port, *args)

    def calls(self, prompt_id):
        return sum(self.stats("requests"))

    def used_again(self, began):
        with contextlib.suppress(OSError):
            if get(self.upstream[0], "/stats")["requests"] > 0:
                return time.monotonic() - began
        return None

    def freed_ms(self, left):
        while time.monotonic() - left < 5:
            if sum(self.stats("active")) == 0:
                return (time.monotonic() - left) * 1e3
            time.sleep(0.001)
        return None


class Baton(Stand):
    """The controller with two workers of `--engine sim`."""

    def __init__(self, name, store):
        super().__init__(name)
        self.n_log = [0, 0]
        self.store = pathlib.Path(tempfile.mkdtemp(prefix="baton-bench-", dir=store)) if store else None

    def command(self):
        return [BIN / "baton-controller", "--engine", "sim", "--port", self.port, "--log-level", "warn", "--workers",
                f"tcp://127.0.0.1:{self.side}", *(["--store", self.store / "state.db"] if self.store else [])]

    def close(self):
        super().close()
        if self.store:
            shutil.rmtree(self.store, ignore_errors=True)

    def log_of(self, i):
        return self.dir / f"w{i}.{self.n_log[i]}.tok"

    def start_worker(self, i):
        end(self.worker[i])
        self.n_log[i] += 1
        self.worker[i] = spawn([BIN / "baton-worker", "--engine", "sim", "--connect", f"tcp://127.0.0.1:{self.side}",
                                "--name", f"w{i}", "--log-level", "warn", "--sim-log", self.log_of(i)],
                               self.dir / f"w{i}.log")

    def start_router(self, limit=30):
        up = super().start_router(limit)
        while sum(w["state"] == "ready" for w in get(self.port, "/v1/status")["workers"]) < 2:
            time.sleep(0.01)
        return up

    def lines(self, i, skip=0):
        """(request, index, us) of a worker's log from byte `skip` on."""
        with contextlib.suppress(OSError), open(self.log_of(i)) as f:
            f.seek(skip)
            return [tuple(map(int, line.split())) for line in f if line.endswith("\n")]
        return []

    def relay(self, args):
        """Sent by the worker, received by the client: joined by request and index."""
        dump = self.dir / "dump"
        skip = [self.log_of(i).stat().st_size for i in (0, 1)]
        d = load(self.port, *args, "--dump", dump)
        time.sleep(0.1)
        sent = {}
        for i in (0, 1):
            for r, k, us in self.lines(i, skip[i]):
                sent.setdefault((r, k), []).append(us)
        delay = []
        for r, k, us in (map(int, line.split()) for line in open(dump)):
            at = bisect.bisect(sent.get((r, k), []), us)
            if at:
                delay.append(us - sent[r, k][at - 1])
        delay.sort()
        d["relay_us"] = {"n": len(delay), "p50": delay[len(delay) // 2], "p99": delay[int(len(delay) * 0.99)]}
        return d

    def calls(self, prompt_id):
        return sum(r == prompt_id and k == 0 for i in (0, 1) for r, k, _ in self.lines(i))

    def used_again(self, began):
        lines = self.lines(0)
        return lines[0][2] / 1e6 - began if lines else None

    def freed_ms(self, left):
        time.sleep(0.3)
        at = [us for i in (0, 1) for _, k, us in self.lines(i) if k == -1]
        return max(at) / 1e3 - left * 1e3 if len(at) == 16 else None


def nginx(s):
    ups = " ".join(f"server 127.0.0.1:{p} max_fails=1 fail_timeout=10s;" for p in s.upstream)
    temp = " ".join(f"{k}_temp_path {s.dir}/{k};" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (s.dir / "nginx.conf").write_text(f"""
worker_processes 2; daemon off; pid {s.dir}/nginx.pid; error_log {s.dir}/error.log error; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{ access_log off; {temp.replace('client_body_temp', 'client_body_temp')}
  keepalive_requests 10000000; client_max_body_size 64m; client_body_buffer_size 1m;
  upstream w {{ {ups} keepalive 512; keepalive_requests 10000000; }}
  server {{ listen 127.0.0.1:{s.port} backlog=1024; location / {{ proxy_pass http://w; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 600s;
    proxy_next_upstream error timeout non_idempotent; proxy_next_upstream_tries 3; }} }} }}
""")
    return ["nginx", "-c", s.dir / "nginx.conf", "-p", s.dir]


def haproxy(s):
    servers = "\n  ".join(f"server w{i} 127.0.0.1:{p} check inter 2s" for i, p in enumerate(s.upstream))
    (s.dir / "haproxy.cfg").write_text(f"""
global
  nbthread 2
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  retries 3
  option redispatch 1
  option http-no-delay
  retry-on conn-failure empty-response
  http-reuse always
frontend f
  bind 127.0.0.1:{s.port}
  default_backend b
backend b
  balance roundrobin
  option httpchk GET /health
  {servers}
""")
    return ["haproxy", "-f", s.dir / "haproxy.cfg", "-db"]


def vllm_router(program):
    return lambda s: [program, "--host", "127.0.0.1", "--port", s.port, "--worker-urls",
                      *(f"http://127.0.0.1:{p}" for p in s.upstream), "--policy", "round_robin", "--log-level", "error",
                      "--prometheus-host", "127.0.0.1", "--prometheus-port", s.side]


def find_vllm_router(venvs):
    """Its program, installed into a private environment at the first time; or None and the reason."""
    program = venvs / "vllm-router" / "bin" / "vllm-router"
    if program.exists():
        return program, None
    print("control: installing", VLLM_ROUTER, "into", program.parent.parent, file=sys.stderr)
    for cmd in ([sys.executable, "-m", "venv", program.parent.parent],
                [program.parent / "pip", "install", "-q", "--disable-pip-version-check", VLLM_ROUTER]):
        try:
            r = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, timeout=180)
        except (OSError, subprocess.TimeoutExpired) as e:
            return None, str(e)
        if r.returncode:
            return None, (r.stderr.strip().splitlines() or ["failed"])[-1]
    return (program, None) if program.exists() else (None, "pip installed no program")


def make_stands(names, venvs, store_dir):
    stands = []
    has_store = "--store" in subprocess.run([BIN / "baton-controller", "--help"], capture_output=True, text=True).stdout
    for name in names:
        why = None
        if name == "baton":
            stands.append(Baton(name, None))
        elif name == "baton-store":
            why = None if has_store else "this controller has no --store"
            if has_store:
                stands.append(Baton(name, store_dir))
        elif name in ("nginx", "haproxy"):
            found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
            why = None if found else f"not installed; apt-get install {name}"
            if found:
                stands.append(Peer(name, {"nginx": nginx, "haproxy": haproxy}[name]))
        elif name == "vllm-router":
            program, why = find_vllm_router(venvs)
            if program:
                stands.append(Peer(name, vllm_router(program)))
        else:
            why = "unknown"
        if why:
            print(f"control: {name} is skipped: {why}", file=sys.stderr)
    return stands


# ---- the tests: each yields (row, value) --------------------------------------------------------------------------


def measured(s, name, direct):
    """One load: the result with CPU seconds, and the p50 of the same load straight to an upstream."""
    before = cpu_s(s.router.pid)
    d = s.relay(LOADS[name]) if name == "s64" else load(s.port, *LOADS[name])
    d["cpu_s"] = cpu_s(s.router.pid) - before
    if d["whole"] != d["requests"]:
        raise RuntimeError(f"{s.name} {name}: {d['whole']} of {d['requests']} whole: {d['first_error']}")
    d["direct_p50"] = load(direct, *LOADS[name])["latency_us"]["p50"] if name == "c1" else None
    return d


def rows_of_load(name, d, s):
    us_each = d["cpu_s"] * 1e6 / max(1, d["tokens_seen"])
    if name == "c1":
        yield "1", d["latency_us"]["p50"] - d["direct_p50"]
    elif name == "c32":
        yield "2", d["rps"]
        yield "3", us_each
    elif name == "big":
        yield "4", d["requests"] * 0.4 / max(1e-9, d["cpu_s"])
    elif name == "s64":
        yield "5", d["relay_us"]["p50"]
        yield "5b", d["relay_us"]["p99"]
        yield "6", us_each
    elif name == "flood":
        yield "7", d["tokens_per_s"]
    elif name == "ttft":
        yield "8", d["ttft_us"]["p50"]
    elif name == "s256":
        yield "9", pss_mib(s.router.pid)


def kill_worker(s, a):
    s.start()
    d = load(s.port, *KILL, "--kill-pid", s.worker[0].pid, "--kill-ms", 2000)
    yield "10", d["whole"]
    if d["whole"] == 64:
        yield "10b", d["max_gap_us"]["p99"] / 1e3
    d = load(s.port, "-c", 8, "-n", 400, "--secs", 15)
    yield "16", d["requests"] - d["whole"]
    yield "16b", d["latency_us"]["p99"]
    s.start_worker(0)
    began, back, limit = time.monotonic(), None, 5 if a.quick else 20
    while back is None and time.monotonic() - began < limit:
        post(s.port, "[[id=0,n=1]] again")
        back = s.used_again(began)
        time.sleep(0.002)
    yield "15", back if back is not None else limit


def kill_router(s, a):
    s.start()
    client = Background(s.port, *KILL, "--kill-pid", -s.router.pid, "--kill-ms", 2000, "--resume-s", 10)
    s.router.wait()
    up = s.start_router()
    d = client.result()
    yield "12", d["whole"]
    yield "12b", up


def kill_all(s, a):
    s.start()
    client = Background(s.port, *HELD, "--tokens", 150, "--stall-s", 8)
    time.sleep(1)
    end(s.worker[0])
    time.sleep(0.3)
    end(s.worker[1])
    time.sleep(3)
    s.start_worker(0)
    yield "13", client.result()["whole"]


def freeze(s, a):
    s.start()
    client = Background(s.port, *HELD, "--tokens", 100, "--stall-s", 5)
    time.sleep(1)
    os.killpg(s.worker[0].pid, signal.SIGSTOP)
    d = client.result()
    yield "14", d["whole"]
    if d["whole"] == 16:
        yield "14b", d["max_gap_us"]["max"] / 1e3


def manners(s, a):
    s.start()
    held = []
    for k in range(16):
        body = json.dumps({"model": "mock", "stream": True, "max_tokens": 2000,
                           "messages": [{"role": "user", "content": f"[[id={k},n=2000,itl_us=100000]]"}]}).encode()
        c = socket.create_connection(("127.0.0.1", s.port))
        c.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                  % (PATH.encode(), len(body)) + body)
        held.append(c)
    time.sleep(1)
    left = time.monotonic()
    for c in held:
        c.close()
    freed = s.freed_ms(left)
    yield "17", freed if freed is not None else 5000
    before = s.calls(777)
    for _ in range(2):
        post(s.port, "[[id=777,n=1]] same", key="one")
    time.sleep(0.1)
    yield "18", s.calls(777) - before


FAULTS = {"kill_worker": kill_worker, "kill_router": kill_router, "kill_all": kill_all, "freeze": freeze,
          "manners": manners}


# ---- the run ------------------------------------------------------------------------------------------------------


class Results:
    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.f, self.got = open(path, "w"), {}

    def add(self, stand, row, value, **more):
        self.got.setdefault((row, stand), []).append(value)
        self.f.write(json.dumps({"stand": stand, "row": row, "value": round(value, 3), **more}) + "\n")
        self.f.flush()

    def median(self, row, stand):
        got = self.got.get((row, stand))
        return statistics.median(got) if got else None

    def print_table(self, stands):
        width = max(12, *(len(s) + 2 for s in stands))
        print("\n" + f"{'row':4} {'figure':36}" + "".join(f"{s:>{width}}" for s in stands) + f"  {'target':>16}")
        for row, what, unit, target, less in ROWS:
            values = [self.median(row, s) for s in stands]
            if all(v is None for v in values):
                continue
            cells = []
            for s, v in zip(stands, values):
                mark = ""
                want = target[s == "baton-store"] if target and s.startswith("baton") else None
                if v is not None and want is not None and (v > want if less else v < want):
                    mark = "!"
                cells.append("-" if v is None else f"{v:,.0f}{mark}" if abs(v) >= 100 else f"{v:.3g}{mark}")
            aim = "" if not target else " / ".join("-" if t is None else f"{t:,}" for t in target)
            print(f"{row:4} {what + (', ' + unit if unit else ''):36}" + "".join(f"{c:>{width}}" for c in cells)
                  + f"  {aim:>16}")
        print("! = misses the target (without / with store). Medians; ratios to nginx and haproxy travel, absolute "
              "figures do not.")


def run_speed(stands, a, results):
    mock = spawn([BIN / "mock_worker", "--port", a.direct_port, "--name", "direct"], os.devnull)
    try:
        for s in stands:
            s.start()
        for r in range(a.rounds):
            for name in a.loads:
                for s in stands:
                    d = measured(s, name, a.direct_port)
                    for row, value in rows_of_load(name, d, s):
                        results.add(s.name, row, value, load=name, round=r)
    finally:
        end(mock)
        for s in stands:
            s.stop()


def run_faults(stands, a, results):
    for s in stands:
        for name in a.faults:
            if name == "kill_router" and s.name != "baton-store" and a.quick:
                continue
            for r in range(a.fault_rounds if s.name.startswith("baton") else 1):
                try:
                    for row, value in FAULTS[name](s, a):
                        results.add(s.name, row, value, fault=name, round=r)
                finally:
                    s.stop()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--stands", default="baton,baton-store,nginx,haproxy,vllm-router", help="comma list of these")
    ap.add_argument("--loads", default=",".join(n for n in LOADS if n != "big"),
                    help="comma list of " + ",".join(LOADS))
    ap.add_argument("--faults", default=",".join(FAULTS), help="comma list of " + ",".join(FAULTS) + ", or none")
    ap.add_argument("--rounds", type=int, default=3, help="of each load; the table has the median")
    ap.add_argument("--fault-rounds", type=int, default=1)
    ap.add_argument("--quick", action="store_true", help="below a minute: one round, no vllm-router, short faults")
    ap.add_argument("--rr", action="store_true", help="all under SCHED_RR (root): keeps other work out of the figures")
    ap.add_argument("--store-dir", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir(),
                    help="where baton-store keeps its file; default /dev/shm: on a disk its fsync is what is measured")
    ap.add_argument("--venvs", type=pathlib.Path, default=BIN.parent / "bench-venvs", help="private environments")
    ap.add_argument("--out", type=pathlib.Path, default=BIN.parent / "bench" / "control.jsonl", help="JSON lines")
    a = ap.parse_args()
    if a.quick:
        a.rounds = 1
        a.stands = a.stands.replace(",vllm-router", "")
        a.loads = a.loads.replace(",s256", "") if len(a.loads.split(",")) > 3 else a.loads
        a.faults = "kill_worker,manners" if len(a.faults.split(",")) > 2 else a.faults
    a.loads = [n for n in a.loads.split(",") if n and n != "none"]
    a.faults = [n for n in a.faults.split(",") if n and n != "none"]
    if a.rr:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    (a.direct_port,) = free_ports(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stands = make_stands(a.stands.split(","), a.venvs, a.store_dir)
    results = Results(a.out)
    try:
        if a.loads:
            run_speed(stands, a, results)
        run_faults(stands, a, results)
    finally:
        for s in stands:
            s.close()
    results.print_table([s.name for s in stands])
    print(f"raw figures: {a.out}")


if __name__ == "__main__":
    main()
