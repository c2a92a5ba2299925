#!/usr/bin/env python3
"""transformers' generate: one request at a time, or static batches of those that have arrived.

usage: hf.py CHECKPOINT_DIR WORK.json BATCH
"""
import sys
import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from record import Record

PAD = 3
folder, path, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
record = Record(path)
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
model.generation_config.eos_token_id = None


class Told(StoppingCriteria):
    """Sees every step; stops none."""

    def __init__(self, taken):
        self.taken = taken

    def __call__(self, ids, scores, **_):
        for row, i in enumerate(self.taken):
            record.token(i, ids[row, -1])
        return torch.zeros(ids.shape[0], dtype=torch.bool)


def generate(prompts, tokens, taken):
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                   pad_token_id=PAD, eos_token_id=None, stopping_criteria=StoppingCriteriaList([Told(taken)]))


with torch.no_grad():
    generate([[5, 6, 7]] * batch, 4, [])
    record.start()
    while record.queue:
        record.wait()
        taken = record.take(batch)
        work = [record.work[i] for i in taken]
        generate([w["prompt"] for w in work], max(w["max_new"] for w in work), taken)
record.print()
