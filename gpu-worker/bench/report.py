"""Figures of runs, and tables of figures."""
import statistics
from contenders import is_ours


def quantile(numbers, share):
    """The smallest number that at least `share` of all do not exceed."""
    ordered = sorted(numbers)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def summary(ran, requests):
    """A run's figures; seconds since a request's arrival to its first and last token, and between tokens."""
    first = [times[0] for times in ran["times"]]
    last = [times[-1] for times in ran["times"]]
    gaps = [after - before for times in ran["times"] for before, after in zip(times, times[1:])]
    tokens = sum(map(len, ran["answers"]))
    figures = {"tokens": tokens, "tokens_per_cpu_s": tokens / ran["cpu_s"], "tokens_per_s": tokens / ran["wall_s"],
               "cpu_s": ran["cpu_s"], "wall_s": ran["wall_s"], "load": ran["load"], "load_s": ran["load_s"],
               "resident_bytes": ran["resident_bytes"], "answers": ran["answers"]}
    for name, numbers in (("first", first), ("gap", gaps), ("done", last)):
        figures |= {f"{name}_p50_s": quantile(numbers, 0.5), f"{name}_p99_s": quantile(numbers, 0.99)}
    if "ceiling_cpu_s" in ran:
        figures |= {"ceiling_cpu_s": ran["ceiling_cpu_s"], "of_ceiling": ran["ceiling_cpu_s"] / ran["cpu_s"]}
    if "calls" in ran:
        prompt = sum(len(request["prompt"]) for request in requests)
        decodes = [rows for kind, rows in ran["calls"] if kind == "decode"]
        figures |= {"slots": ran["slots"], "calls": ran["calls"], "prompt_tokens": prompt, "reused_tokens": ran["reused_tokens"],
                    "mean_rows": sum(decodes) / len(decodes) if decodes else 0.0}
    return figures


def middle(runs, figure):
    return statistics.median(run[figure] for run in runs)


def same(answers, others):
    return sum(a == b for a, b in zip(answers, others))


def print_roofline(roofline):
    print("one core: " + ", ".join(f"{name} {rate['best']:.1f} (median {rate['median']:.1f})"
                                    for name, rate in roofline.items() if isinstance(rate, dict)), flush=True)


def print_table(size, precision, scenario, runs):
    """One line a contender: medians over its turns; `same` counts requests answered as by the first of ours."""
    loads = [run["load"] for turns in runs.values() for run in turns]
    turns = max(map(len, runs.values()))
    print(f"\n{size} {precision}, {scenario}: {turns} turns each, load {min(loads):.1f}-{max(loads):.1f}")
    print(f"{'':22}{'tok/CPU-s':>10}{'each turn':>18}{'tok/s':>8}{'ceiling':>9}{'first p50/p99 s':>17}{'token p50/p99 ms':>18}"
          f"{'done p50/p99 s':>16}{'same':>7}")
    reference = next((turns[0]["answers"] for name, turns in runs.items() if is_ours(name)), None)
    for name, turns in runs.items():
        figure = lambda key: middle(turns, key)
        each = " ".join(f"{run['tokens_per_cpu_s']:.0f}" for run in turns)
        share = f"{figure('of_ceiling'):.1%}" if "of_ceiling" in turns[0] else ""
        agreed = f"{same(turns[0]['answers'], reference)}/{len(reference)}" if reference else ""
        print(f"{name:22}{figure('tokens_per_cpu_s'):>10.1f}{each:>18}{figure('tokens_per_s'):>8.1f}{share:>9}"
              f"{figure('first_p50_s'):>9.2f} /{figure('first_p99_s'):>6.2f}"
              f"{figure('gap_p50_s') * 1e3:>9.1f} /{figure('gap_p99_s') * 1e3:>7.1f}"
              f"{figure('done_p50_s'):>8.2f} /{figure('done_p99_s'):>6.2f}{agreed:>7}")
    print_ratios(runs)


def print_ratios(runs):
    rate = {name: middle(turns, "tokens_per_cpu_s") for name, turns in runs.items()}
    best = lambda names: max(names, key=rate.get, default=None)
    plain = [name for name in rate if is_ours(name) and "-all" not in name and "-no-reuse" not in name]
    ours, peer, same_graph = best(plain), best([name for name in rate if not is_ours(name)]), best([name for name in rate if "-all" in name])
    if ours and peer:
        print(f"best of ours ({ours}) over best peer ({peer}): {rate[ours] / rate[peer]:.2f}")
    if same_graph and (peer := best([name for name in rate if name in ("genai-static-8", "genai-engine-8")])):
        print(f"on the identical graph ({same_graph} over {peer}): {rate[same_graph] / rate[peer]:.2f}")
    for name in plain:
        if without := rate.get(name + "-no-reuse"):
            reused = runs[name][0]["reused_tokens"] / runs[name][0]["prompt_tokens"]
            print(f"{name} with reuse over without: {rate[name] / without:.2f} ({reused:.0%} of prompt tokens taken over)")
