"""Models with 8- and 4-bit weights against single precision: speed, memory, and what they answer."""
import json, os
import numpy as np, onnxruntime
import contenders, report, work
from models import SIZES

HERE = os.path.dirname(os.path.abspath(__file__))
SCENARIO, CONTENDER = "mixed-16", "ours-8"


def likeliest(folder, requests, answers):
    """At each place of each answer, the token that the model of `folder` finds likeliest after the tokens before it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])
    decoder = json.load(open(folder + "/genai_config.json"))["model"]["decoder"]
    nothing = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    cache = {port.name: nothing for port in session.get_inputs() if port.name.startswith("past")}
    found = []
    for request, answer in zip(requests, answers):
        ids = np.array([request["prompt"] + answer[:-1]], np.int64)
        logits, = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids), **cache})
        found.append(logits[0, len(request["prompt"]) - 1:].argmax(-1).tolist())
    return found


def compare(given, size, run, folder):
    """Of each precision its figures; agreement is a share of the tokens that single precision answers."""
    requests = work.expand(f"{HERE}/scenarios/{SCENARIO}.json", SIZES[size][-1])
    path = f"{folder}/work.json"
    json.dump(requests, open(path, "w"))
    order = ["fp32", *(name for name in given.precisions if name != "fp32")]
    turns = {precision: [] for precision in order}
    for _ in range(given.repeats):
        for precision in order:
            turns[precision].append(report.summary(run(contenders.command(CONTENDER, size, precision, path, given)), requests))
    reference = turns["fp32"][0]["answers"]
    tokens = sum(map(len, reference))
    table = {}
    for precision in order:
        answers = turns[precision][0]["answers"]
        along = likeliest(f"{given.cache}/models/{size}-{precision}-all", requests, reference)
        equal = lambda lists: sum(a == b for ours, theirs in zip(lists, reference) for a, b in zip(ours, theirs))
        until = lambda ours, theirs: next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), len(theirs))
        table[precision] = {
            "tokens_per_cpu_s": report.middle(turns[precision], "tokens_per_cpu_s"),
            "resident_bytes": report.middle(turns[precision], "resident_bytes"),
            "weights_bytes": os.path.getsize(f"{given.cache}/models/{size}-{precision}/model.onnx.data"),
            "load": [turn["load"] for turn in turns[precision]],
            "same_before_first_difference": sum(map(until, answers, reference)) / tokens,
            "same_top_1_along_fp32": equal(along) / tokens,
        }
    return table


def print_table(size, table):
    loads = [load for row in table.values() for load in row["load"]]
    print(f"\n{size}, {SCENARIO}, {CONTENDER}: load {min(loads):.1f}-{max(loads):.1f}; random weights, whose near ties flip "
          "where a trained model's choices do not")
    print(f"{'':8}{'tok/CPU-s':>10}{'over fp32':>10}{'resident MB':>13}{'weights MB':>12}{'greedy tokens':>15}{'top-1 along fp32':>18}")
    for precision, row in table.items():
        print(f"{precision:8}{row['tokens_per_cpu_s']:>10.1f}{row['tokens_per_cpu_s'] / table['fp32']['tokens_per_cpu_s']:>10.2f}"
              f"{row['resident_bytes'] / 1e6:>13.0f}{row['weights_bytes'] / 1e6:>12.0f}"
              f"{row['same_before_first_difference']:>15.1%}{row['same_top_1_along_fp32']:>18.1%}")
