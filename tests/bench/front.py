#!/usr/bin/env python3
"""Runs contenders in turn under the same load and prints tables. Started by ./run, which installs what is needed."""
import argparse, contextlib, json, os, socket, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
SCENARIOS = json.load(open(f"{HERE}/scenarios/front.json"))
TICKS = os.sysconf("SC_CLK_TCK")
NAMES = ("ours", "litellm", "portkey")


def options():
    names = lambda text: text.split(",")
    parser = argparse.ArgumentParser(prog="tests/bench/run", description="the front door beside its peers")
    parser.add_argument("--cache", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--programs", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--contenders", type=names, default=list(NAMES), help=",".join(NAMES))
    parser.add_argument("--scenarios", type=names, default=list(SCENARIOS), help=",".join(SCENARIOS))
    parser.add_argument("--repeats", type=int, default=2, help="how often each contender has its turn")
    parser.add_argument("--embedded", action="store_true", help="also: ready time and memory of `penstock up --workers 0`")
    parser.add_argument("--json", help="also write every run to this file")
    given = parser.parse_args()
    for kind, known in (("contenders", NAMES), ("scenarios", SCENARIOS)):
        if unknown := set(getattr(given, kind)) - set(known):
            parser.error(f"unknown {kind}: {', '.join(sorted(unknown))}")
    return given


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def family(pid):
    """A process and its descendants."""
    found, parents = {pid}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents[int(entry)] = int(open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()[1])
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_seconds(pid):
    ticks = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            fields = open(f"/proc/{each}/stat").read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def resident_mib(pid):
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            lines = open(f"/proc/{each}/status").read().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return total / 1024


def wait_for(url, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=2)
            return
        time.sleep(0.05)
    sys.exit(f"{url} does not answer after {seconds} s")


@contextlib.contextmanager
def running(command, env=None):
    process = subprocess.Popen(command, env=os.environ | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        for each in family(process.pid):
            with contextlib.suppress(OSError):
                os.kill(each, 15)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


@contextlib.contextmanager
def contender(name, place, upstream):
    """Starts a contender: yields where to ask, with which headers, its process, and how long it took to be ready."""
    begun = time.monotonic()
    took = lambda: time.monotonic() - begun
    if name == "ours":
        with running([f"{place.programs}/examples/null_front"]) as process:
            ready = json.loads(process.stdout.readline())
            yield f"{ready['url']}/v1/chat/completions", [f"authorization: Bearer {ready['api_key']}"], process.pid, took()
        return
    port = free_port()
    if name == "litellm":
        command = [f"{place.cache}/litellm/bin/litellm", "--config", f"{HERE}/peers/litellm.yaml", "--host", "127.0.0.1", "--port", str(port)]
        headers, health = ["authorization: Bearer sk-bench"], "/health/liveliness"
    else:
        command = ["node", f"{place.cache}/portkey/node_modules/@portkey-ai/gateway/build/start-server.js", f"--port={port}", "--headless"]
        headers = ["authorization: Bearer none", "x-portkey-provider: openai", f"x-portkey-custom-host: {upstream}"]
        health = "/"
    with running(command, {"NULL_UPSTREAM": upstream, "LITELLM_LOG": "ERROR", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}) as process:
        wait_for(f"http://127.0.0.1:{port}{health}")
        yield f"http://127.0.0.1:{port}/v1/chat/completions", headers, process.pid, took()


def bodies(scenario, folder):
    path = f"{folder}/bodies.txt"
    with open(path, "w") as lines:
        for number in range(scenario["distinct"]):
            body = {"model": "null", "temperature": scenario["temperature"], "messages": [{"role": "user", "content": f"ping {number}"}]}
            lines.write(json.dumps(body) + "\n")
    return path


def load(place, url, headers, pid, scenario, rate, folder):
    """One run of the generator in open loop: latencies from when a request was due, CPU time of contender and generator."""
    command = [f"{place.cache}/oha/bin/oha", "--no-tui", "--output-format", "json", "-z", f"{scenario['seconds']}s",
               "-c", str(scenario["connections"]), "-m", "POST", "-T", "application/json", "-Z", bodies(scenario, folder)]
    command += ["-q", str(rate), "--latency-correction"] if rate else []
    for header in headers:
        command += ["-H", header]
    before, own, machine = cpu_seconds(pid), os.times(), os.getloadavg()[0]
    done = subprocess.run(command + [url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"the load generator failed:\n{done.stderr[-2000:]}")
    told, after = json.loads(done.stdout), os.times()
    statuses = {int(code): count for code, count in told["statusCodeDistribution"].items()}
    answered = statuses.get(200, 0)
    ms = lambda name: told["latencyPercentiles"][name] * 1000
    return {
        "answered": answered, "others": sum(statuses.values()) - answered, "broken": sum(told["errorDistribution"].values()),
        "per_second": answered / told["summary"]["total"], "p50_ms": ms("p50"), "p99_ms": ms("p99"),
        "cpu_ms": (cpu_seconds(pid) - before) * 1000 / max(answered, 1), "load": machine,
        "generator_cpu_ms": (after.children_user + after.children_system - own.children_user - own.children_system) * 1000 / max(answered, 1),
        "resident_mib": resident_mib(pid),
    }


def warm(place, url, headers, pid, folder):
    load(place, url, headers, pid, {"seconds": 2, "connections": 8, "distinct": 100, "temperature": 0}, 50, folder)


def embedded(place, folder):
    """Ready time and resident memory of the front door alone, five starts."""
    times, sizes = [], []
    for number in range(5):
        file = f"{folder}/ready-{number}"
        begun = time.monotonic()
        with running([f"{place.programs}/penstock", "up", "--workers", "0", "--ephemeral", "--port", "0", "--ready-file", file]) as process:
            while not os.path.exists(file):
                time.sleep(0.001)
            times.append(time.monotonic() - begun)
            sizes.append(resident_mib(process.pid))
    print(f"\npenstock up --workers 0: ready in {min(times) * 1000:.0f} to {max(times) * 1000:.0f} ms, {max(sizes):.1f} MiB resident")


def main():
    place = options()
    port, runs = free_port(), []
    with tempfile.TemporaryDirectory() as folder, running([sys.executable, f"{HERE}/peers/null_upstream.py", str(port)]):
        upstream = f"http://127.0.0.1:{port}/v1"
        for turn in range(place.repeats):
            for name in place.contenders:
                with contender(name, place, upstream) as (url, headers, pid, ready):
                    warm(place, url, headers, pid, folder)
                    most = None
                    for scenario in sorted(place.scenarios, key=lambda each: each != "most"):
                        rate = SCENARIOS[scenario]["rate"]
                        run = load(place, url, headers, pid, SCENARIOS[scenario], rate, folder)
                        runs.append({"contender": name, "scenario": scenario, "turn": turn, "ready_s": ready} | run)
                        print(".", end="", flush=True, file=sys.stderr)
                        if scenario == "most":
                            half = dict(SCENARIOS[scenario], seconds=8)
                            run = load(place, url, headers, pid, half, max(1, round(run["per_second"] / 2)), folder)
                            runs.append({"contender": name, "scenario": "half of its most", "turn": turn, "ready_s": ready} | run)
        table(runs)
        if place.embedded:
            embedded(place, folder)
    if place.json:
        json.dump(runs, open(place.json, "w"), indent=1)


def table(runs):
    print(f"\n{'scenario':18}{'contender':10}{'answers/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>8}{'generator':>10}{'MiB':>7}{'ready s':>9}{'failed':>8}{'load':>6}")
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        for name in dict.fromkeys(run["contender"] for run in runs):
            mine = [run for run in runs if (run["scenario"], run["contender"]) == (scenario, name)]
            if not mine:
                continue
            middle = lambda key: statistics.median(run[key] for run in mine)
            failed = sum(run["others"] + run["broken"] for run in mine)
            print(f"{scenario:18}{name:10}{middle('per_second'):10.0f}{middle('p50_ms'):9.2f}{middle('p99_ms'):9.2f}{middle('cpu_ms'):8.3f}"
                  f"{middle('generator_cpu_ms'):10.3f}{middle('resident_mib'):7.0f}{middle('ready_s'):9.2f}{failed:8}{middle('load'):6.1f}")


main()
