#!/usr/bin/env python3
"""Runs contenders in turn on the same work and prints tables. Started by ./run, which installs what is needed.

usage: bench.py --cache DIR --contender PROGRAM --library FILE [options of ./run]
"""
import argparse, json, os, subprocess, sys, tempfile
import contenders, precisions, report, work
from models import PRECISIONS, SIZES

HERE = os.path.dirname(os.path.abspath(__file__))
FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def options():
    names = lambda text: text.split(",")
    parser = argparse.ArgumentParser(prog="gpu-worker/bench/run", description="tokens per CPU-second of one thread, against peers")
    for name in ("cache", "contender", "library"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="50m, fp32 and int4, 16 requests, the best contenders: minutes")
    parser.add_argument("--models", type=names, default=None, help="5m,50m")
    parser.add_argument("--precisions", type=names, default=None, help="fp32,int8,int4")
    parser.add_argument("--contenders", type=names, default=None, help=",".join(contenders.ALL))
    parser.add_argument("--scenarios", type=names, default=None, help="names of files in scenarios/")
    parser.add_argument("--repeats", type=int, default=2, help="how often each contender has its turn")
    parser.add_argument("--n17", action="store_true", help="instead: int8 and int4 against fp32")
    parser.add_argument("--json", help="also write every run to this file")
    given = parser.parse_args()
    given.models = given.models or (["50m"] if given.quick else ["5m", "50m"])
    given.precisions = given.precisions or (["fp32", "int4"] if given.quick else PRECISIONS)
    given.scenarios = given.scenarios or (["mixed-16"] if given.quick else ["mixed-16", "mixed-64", "poisson-32", "shared-32"])
    for kind, known in (("models", SIZES), ("precisions", PRECISIONS)):
        if unknown := set(getattr(given, kind)) - set(known):
            parser.error(f"unknown {kind}: {', '.join(sorted(unknown))}")
    named = given.contenders
    given.contenders = {each: named or (contenders.QUICK[each] if given.quick else contenders.ALL) for each in given.precisions}
    if unknown := [name for name in named or [] if name not in contenders.PEERS and not contenders.is_ours(name)]:
        parser.error(f"unknown contenders: {', '.join(unknown)}")
    return given


def run(command):
    """A program's JSON, with the machine's load before it; a program that fails ends the benchmark."""
    load = os.getloadavg()[0]
    done = subprocess.run(command, env=os.environ | FEW_THREADS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"load": load}


def ceiling(place, size, precision, ran, folder):
    path = f"{folder}/ran.json"
    json.dump({key: ran[key] for key in ("calls", "reads_in_single_precision")}, open(path, "w"))
    return run([f"{place.cache}/venv/bin/python", f"{HERE}/ceiling.py", f"{place.cache}/models/{size}-{precision}", path])


def measure(place, scenario, size, precision, names, repeats, folder):
    """All turns of all contenders: `{name: [runs]}`. A run of ours has its kernel ceiling measured right after it."""
    path = f"{folder}/work.json"
    requests = work.expand(f"{HERE}/scenarios/{scenario}.json", SIZES[size][-1])
    json.dump(requests, open(path, "w"))
    runs = {}
    for _ in range(repeats):
        for name in names:
            command = contenders.command(name, size, precision, path, place)
            if command is None:
                continue
            ran = run(command)
            if contenders.is_ours(name) and "-all" not in name:
                ran["ceiling_cpu_s"] = ceiling(place, size, precision, ran, folder)["cpu_s"]
            runs.setdefault(name, []).append(report.summary(ran, requests))
            print(f"  {name}: {runs[name][-1]['tokens_per_cpu_s']:.1f} tokens per CPU-second, load {ran['load']:.1f}", file=sys.stderr, flush=True)
    return runs


def main():
    given = options()
    everything = {"roofline": run([sys.executable, HERE + "/roofline.py"]), "tables": []}
    report.print_roofline(everything["roofline"])
    with tempfile.TemporaryDirectory() as folder:
        for size in given.models:
            if given.n17:
                table = precisions.compare(given, size, run, folder)
                precisions.print_table(size, table)
                everything["tables"].append({"size": size, "against_fp32": table})
                continue
            for scenario in given.scenarios:
                for precision in given.precisions:
                    names = given.contenders[precision]
                    if "shared" in scenario:
                        ours = [name for name in names if contenders.is_ours(name) and "-all" not in name]
                        names = [turn for name in ours for turn in (name, name + "-no-reuse")]
                    print(f"{size} {precision} {scenario}", file=sys.stderr, flush=True)
                    runs = measure(given, scenario, size, precision, names, given.repeats, folder)
                    report.print_table(size, precision, scenario, runs)
                    everything["tables"].append({"size": size, "precision": precision, "scenario": scenario, "runs": runs})
    if given.json:
        json.dump(everything, open(given.json, "w"), indent=1)


main()
