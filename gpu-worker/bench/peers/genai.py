#!/usr/bin/env python3
"""onnxruntime-genai's generator: one request at a time, or static batches of those that have arrived.

usage: genai.py MODEL_DIR WORK.json BATCH

A batch is padded on the right, as this version reads it, and runs until its longest answer is complete. The graph must
give the logits of all positions if BATCH is more than 1.
"""
import json, sys
import numpy as np, onnxruntime_genai as genai
from record import Record

PAD = 3
folder, path, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
record = Record(path)
config = genai.Config(folder)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
model = genai.Model(config)


def generate(prompts, tokens, told):
    width = max(map(len, prompts))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=width + tokens, min_length=width + tokens, batch_size=len(prompts))
    generator = genai.Generator(model, parameters)
    ids = np.array([prompt + [PAD] * (width - len(prompt)) for prompt in prompts], np.int32)
    generator.append_tokens(ids if len(prompts) > 1 else ids[0])
    while not generator.is_done():
        generator.generate_next_token()
        for row, id in enumerate(generator.get_next_tokens()):
            told(row, id)


generate([[5, 6, 7]] * batch, 4, lambda row, id: None)
record.start()
while record.queue:
    record.wait()
    taken = record.take(batch)
    work = [record.work[i] for i in taken]
    generate([w["prompt"] for w in work], max(w["max_new"] for w in work), lambda row, id: record.token(taken[row], id))
record.print()
