"""Turns a scenario into a list of requests in token ids."""
import json, random


def expand(path, vocabulary):
    """`[{"prompt": [ids], "max_new": tokens, "at": seconds}]`, the same for the same file and vocabulary."""
    scenario = json.load(open(path))
    draw, now, work = random.Random(scenario["seed"]), 0.0, []
    ids = lambda count: [draw.randrange(10, vocabulary) for _ in range(count)]
    prefixes = [ids(round(scenario["prompt"][1] * scenario["shared"])) for _ in range(scenario.get("prefixes", 0))]
    for number in range(scenario["requests"]):
        if scenario["rate_per_s"]:
            now += draw.expovariate(scenario["rate_per_s"])
        length = draw.randint(*scenario["prompt"])
        shared = prefixes[number % len(prefixes)][:round(length * scenario["shared"])] if prefixes else []
        work.append({"prompt": shared + ids(length - len(shared)), "max_new": draw.randint(*scenario["answer"]), "at": now})
    return work
