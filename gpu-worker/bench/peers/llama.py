#!/usr/bin/env python3
"""llama.cpp with so many sequences, driven as its own server does: prompts and running answers in one call.

usage: llama.py MODEL.gguf WORK.json SLOTS
"""
import sys
import llama_cpp as llama, numpy as np
from record import Record

CALL_TOKENS = 2048
model_path, path, slots = sys.argv[1], sys.argv[2], int(sys.argv[3])
record = Record(path)
longest = max(len(w["prompt"]) + w["max_new"] for w in record.work) + 8
silent = llama.llama_log_callback(lambda level, text, data: None)  # kept: the library does not
llama.llama_log_set(silent, None)
llama.llama_backend_init()
options = llama.llama_model_default_params()
options.n_gpu_layers = 0
model = llama.llama_model_load_from_file(model_path.encode(), options)
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
options = llama.llama_context_default_params()
options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = longest * slots, CALL_TOKENS, 512, slots
options.n_threads = options.n_threads_batch = 1
context = llama.llama_init_from_model(model, options)
memory = llama.llama_get_memory(context)
batch = llama.llama_batch_init(CALL_TOKENS, 0, slots)


def call(items):
    """Runs `(token, position, slot, wants logits)` and gives the likeliest next token by slot."""
    for place, (token, position, slot, wanted) in enumerate(items):
        batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, slot
    batch.n_tokens = len(items)
    if llama.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")
    logits = lambda place: np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (vocabulary,))
    return {slot: int(logits(place).argmax()) for place, (_, _, slot, wanted) in enumerate(items) if wanted}


def prompt_items(prompt, slot):
    return [(token, at, slot, at == len(prompt) - 1) for at, token in enumerate(prompt)]


call(prompt_items([5, 6, 7], 0))
llama.llama_memory_seq_rm(memory, 0, -1, -1)
free, running = list(range(slots)), {}   # slot: [request, position, last token]
record.start()
while record.queue or running:
    if not running:
        record.wait()
    items = [(last, position, slot, True) for slot, (_, position, last) in running.items()]
    begun = {}
    while free and record.queue and len(items) + len(record.work[record.queue[0]]["prompt"]) <= CALL_TOKENS:
        taken = record.take(1)
        if not taken:
            break
        slot = free.pop()
        begun[slot] = taken[0]
        items += prompt_items(record.work[taken[0]]["prompt"], slot)
    chosen = call(items)
    for slot, state in running.items():
        state[1] += 1
    for slot, i in begun.items():
        running[slot] = [i, len(record.work[i]["prompt"]), None]
    for slot, id in chosen.items():
        i = running[slot][0]
        running[slot][2] = id
        record.token(i, id)
        if len(record.answers[i]) == record.work[i]["max_new"]:
            del running[slot]
            llama.llama_memory_seq_rm(memory, slot, -1, -1)
            free.append(slot)
record.print()
