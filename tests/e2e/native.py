#!/usr/bin/env python3
"""Proves: native clients get what HTTP clients get, and a controller that is killed changes nothing for them. Real
controller and worker, the worked example deploy/examples/native/stream.c as the client.

  kill     the controller is killed in the middle of a stream and started again: every event once, in order, the text as
           undisturbed, by the client that was running; and another process goes on behind any event
  curve    the same stream over an encrypted line; a wrong key, none, and nobody there are told clearly
  slow     a reader that is slow gets all of it; one that leaves ends its generation, and one with a key does not
  runs     a pipeline is started and followed over the native line, also over the death of the controller
  up       `baton up --native`: the ready line shows the endpoint, and it is the same after a restart
  install  a program outside the tree compiles against what `cmake --install` puts there, and works
"""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from harness import (MODEL, ROOT, SCALE, Process, Service, Up, binary, check, descendants, main, request, status,
                     wait_for)

SIM = ["--engine", "sim"]
N = 200 if SCALE == 1 else 60


@contextlib.contextmanager
def service(*args, itl_us=5000, endpoint="tcp://127.0.0.1:*"):
    """A controller with a store and a native endpoint, on which it is started again."""
    path = tempfile.mkdtemp(prefix="baton-native-")
    args = [*SIM, "--store", os.path.join(path, "store.db"), *args]
    try:
        with Service(1, [*args, "--native", endpoint], [*SIM, "--sim-itl-us", str(itl_us)]) as s:
            s.native = s.controller.line("ready ").split()[5]
            s.controller_args = [*args, "--native", s.native]
            s.path = path
            yield s
    finally:
        shutil.rmtree(path, ignore_errors=True)


def body(n, **more):
    return json.dumps({"model": os.path.basename(MODEL), "stream": True, "max_tokens": n, "temperature": 0,
                       "messages": [{"role": "user", "content": f"Count [[n={n}]]"}], **more})


def client(s, text=None, endpoint=None, name="native_stream", **env):
    """The example with its settings."""
    args = [binary(name), endpoint or s.native] + ([text] if text else [])
    return Process("client", args, {"BATON_" + k.upper(): str(v) for k, v in env.items()})


def events_of(p):
    """[(id, object)] of what it has printed."""
    out = []
    for line in p.out:
        event_id, _, data = line.partition("\t")
        out.append((event_id, json.loads(data)))
    return out


def whole(p, seconds=60):
    code = p.wait(seconds)
    check(code == 0, f"the client ended with {code}: {p.err[-3:]} {p.out[-1:]}")
    return events_of(p)


def text_of(events):
    return "".join((c["delta"].get("reasoning_content") or "") + (c["delta"].get("content") or "")
                   for _, e in events for c in e["choices"])


def check_numbers(events, first=1):
    numbers = [int(i.split("-")[1]) for i, _ in events]
    check(numbers == list(range(first, first + len(numbers))), f"event numbers {numbers[:5]} .. {numbers[-5:]}")


def printed(p, n):
    wait_for(f"{n} events", lambda: len(p.out) >= n, 30, 0.002)


def running(s):
    return status(s.url)["streams"]["running"]


def kill():
    with service() as s:
        with client(s, body(N)) as p:
            want = whole(p)
        check_numbers(want)
        n = len(want)
        check(n >= N, f"only {n} events for {N} tokens")
        for part in (0.1, 0.5, 0.9):
            with client(s, body(N)) as p:
                printed(p, int(part * n))
                s.kill_controller()
                check(len(p.out) < n, "the kill came too late")
                s.start_controller()
                got = whole(p)
            check_numbers(got)
            check(len(got) == n and text_of(got) == text_of(want), f"{len(got)} events, not {n}, or another text")
        # The client dies, and another one goes on: it has the key and the last event.
        with client(s, body(N), key="mine") as p:
            printed(p, n // 3)
        begun = events_of(p)
        with client(s, body(N), key="mine", last=begun[-1][0]) as p:
            rest = whole(p)
        check_numbers(begun + rest)
        check(text_of(begun + rest) == text_of(want), "another text after the client's death")
    return f"{n} events, 3 kills"


def curve():
    key = os.path.join(tempfile.mkdtemp(prefix="baton-key-"), "key")
    try:
        with service("--native-key", key, itl_us=1000) as s:
            line = wait_for("the public key in the log",
                            lambda: next((x for x in s.controller.err if "public key" in x), None), 5)
            public = line.split("public key ")[1].split()[0]
            check(len(public) == 40, f"no key: {line}")
            check(os.stat(key).st_mode & 0o777 == 0o600, "others may read the secret key")
            with client(s, body(20), server_key=public) as p:
                check_numbers(whole(p))
            stranger = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
            for wrong, says in ((stranger, "handshake"), (None, "handshake"), ("short", "40 Z85")):
                env = {"server_key": wrong} if wrong else {}
                with client(s, body(20), give_up_ms=500, **env) as p:
                    code = p.wait(20)
                    check(code == 1 and says in p.err[-1] and len(p.err) == 1, f"{wrong}: {code} {p.err}")
        with client(s, body(20), give_up_ms=300) as p:
            code = p.wait(20)
            check(code == 1 and "was not reached for 300 ms" in p.err[-1], f"nobody there: {code} {p.err}")
        for more, says in ((["--native", "tcp://0.0.0.0:*"], "--native-key"), (["--native", "x://y"], "x://y")):
            with Process("controller", [binary("baton-controller"), "--model", MODEL, *SIM, "--port", "0", "--workers",
                                        "tcp://127.0.0.1:*", "--store", "off", *more]) as p:
                code = p.wait(20)
                check(code not in (0, -6, -11) and any(says in x for x in p.err), f"{more}: {code} {p.err}")
    finally:
        shutil.rmtree(os.path.dirname(key))


def slow():
    with service(itl_us=100) as s:
        with client(s, body(N), pause_us=3000) as p, client(s, body(N)) as other:
            check_numbers(whole(other))
            check_numbers(whole(p))
    with service(itl_us=20000) as s:
        # Ctrl-C of a client: nobody knows the library's key, but it had no time to say so; a plain end says it.
        with client(s, body(2000), key="kept") as p:
            printed(p, 5)
        time.sleep(0.5)
        check(running(s) == 1, "with a key it goes on")
        code, answer, heads = request(s.url, "POST", "/v1/chat/completions", json.loads(body(2000, stream=True)) |
                                      {"max_tokens": 3, "messages": [{"role": "user", "content": "[[n=3]]"}]},
                                      heads=True)
        check(code == 200 and heads["x-request-id"].startswith("req_"), f"{code} {answer}")
        path = f"/v1/requests/{heads['x-request-id']}/cancel"
        check(request(s.url, "POST", path)[0] == 404, "an ended request was canceled")
        check(request(s.url, "POST", "/v1/requests/x/cancel")[0] == 404, "cancel of nothing")
        # The id of the one that runs is in its events: <request>-<n>.
        hex_id = events_of(p)[0][0].split("-")[0]
        for prefix, want in (("req_", 200), ("", 404)):
            code, answer = request(s.url, "POST", f"/v1/requests/{prefix}{hex_id}/cancel")
            check(code == want, f"cancel: {code} {answer}")
        wait_for("nothing runs", lambda: running(s) == 0, 5)
        with client(s, method="POST", path=f"/v1/requests/{hex_id}/cancel", text="{}") as p:
            check(p.wait() == 1 and '"not_found"' in p.out[-1], f"cancel over native: {p.out}")


def runs():
    with service(itl_us=20000) as s:
        step = {"id": "a", "generate": {"prompt": "Say [[n=60]]", "max_tokens": 60}}
        text = json.dumps({"pipeline": {"pipeline": "p", "steps": [step]}, "inputs": {}})
        with client(s, text, path="/v1/runs") as p:
            check(p.wait() == 0, f"start: {p.out} {p.err}")
            run = json.loads(p.out[-1])
        check(run["state"] == "running", f"{run}")
        with client(s, path=f"/v1/runs/{run['id']}/events") as p:
            printed(p, 1)
            s.kill_controller()
            s.start_controller()
            got = whole(p)
        ids = [i for i, _ in got]
        check(len(set(ids)) == len(ids), f"events twice: {ids}")
        with client(s, path=f"/v1/runs/{run['id']}/events") as p:
            check(whole(p) == got, "other events when asked afterwards")
        with client(s, path=f"/v1/runs/{run['id']}") as p:
            check(p.wait() == 0 and json.loads(p.out[-1])["state"] == "done", f"{p.out}")
        with client(s, path="/v1/runs/run_none") as p:
            check(p.wait() == 1 and "error" in p.out[-1], f"an unknown run: {p.out}")
    return f"{len(got)} events"


def up():
    with Up(*SIM, "--sim-itl-us", "5000", "--native", "tcp://127.0.0.1:*", workers=1) as u:
        words = u.p.line("ready ").split()
        check(words[2] == "native" and words[3].startswith("tcp://127.0.0.1:"), f"ready line: {words}")
        with client(None, body(N), endpoint=words[3]) as p:
            printed(p, N // 4)
            controller = next(pid for pid in descendants(u.p.pid) if is_controller(pid))
            os.kill(controller, signal.SIGKILL)
            check_numbers(whole(p))
    r = subprocess.run([binary("baton"), "up", *SIM, "--native-key", "x"], capture_output=True, text=True, timeout=20)
    check(r.returncode == 2 and "--native" in r.stderr, f"a key without an endpoint: {r.stderr}")


def is_controller(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        return b"baton-controller" in f.read().split(b"\0")[0]


def install():
    build = os.path.dirname(os.path.dirname(binary("baton")))
    with tempfile.TemporaryDirectory(prefix="baton-install-") as d, service(itl_us=1000) as s:
        subprocess.run(["cmake", "--install", build, "--prefix", d], check=True, stdout=subprocess.DEVNULL)
        for name in ("baton", "baton-controller", "baton-worker", "baton-exec"):
            check(os.access(os.path.join(d, "bin", name), os.X_OK), f"bin/{name} is not installed")
        r = subprocess.run([os.path.join(d, "bin", "baton"), "--version"], capture_output=True, text=True, timeout=20)
        check(r.returncode == 0, f"the installed program does not start: {r.stderr}")
        pc = next(os.path.join(at, "baton.pc") for at, _, files in os.walk(d) if "baton.pc" in files)
        with open(pc) as f:  # the build was configured for another prefix
            lines = [x.replace(x.split("=")[1], d + "\n") if x.startswith("prefix=") else x for x in f]
        prefix = next(x for x in open(pc) if x.startswith("prefix=")).split("=")[1].strip()
        moved = os.path.join(d, "baton.pc")
        with open(moved, "w") as f:
            f.writelines(x.replace(prefix, d) for x in lines)
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", moved], check=True, capture_output=True,
                               text=True).stdout.split()
        out = os.path.join(d, "stream")
        for standard in (["-std=gnu11"], ["-x", "c++", "-fsyntax-only"]):
            only = [] if "-fsyntax-only" not in standard else None
            if only is None:
                header = os.path.join(d, "h.cc")
                with open(header, "w") as f:
                    f.write("#include <baton.h>\n")
                compiler = shutil.which("c++")
                if compiler:
                    subprocess.run([compiler, "-fsyntax-only", header, *flags], check=True)
                continue
            subprocess.run(["cc", *standard, "-Wall", "-Wextra", "-Werror",
                            os.path.join(ROOT, "deploy/examples/native/stream.c"), "-o", out, *flags], check=True)
        lib = os.path.dirname(next(os.path.join(at, "x") for at, _, files in os.walk(d) if "libbaton.so" in files))
        env = {"LD_LIBRARY_PATH": lib, "LSAN_OPTIONS": "detect_leaks=0"}
        if SCALE == 1:  # a library with a sanitizer needs a program with one
            with Process("client", [out, s.native, body(20)], env) as p:
                check_numbers(whole(p))


if __name__ == "__main__":
    main(kill, curve, slow, runs, up, install)
