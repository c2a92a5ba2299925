#!/usr/bin/env python3
"""onnxruntime-genai's engine: on the CPU it forms static batches itself.

usage: genai_engine.py MODEL_DIR WORK.json BATCH        the graph must give the logits of all positions
"""
import json, sys
import numpy as np, onnxruntime_genai as genai
from record import Record

folder, path, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
record = Record(path)
config = genai.Config(folder)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
config.overlay(json.dumps({"engine": {"static_batching": {"max_batch_size": batch}}}))
engine = genai.Engine(genai.Model(config))
events = engine.create_event_buffer(64)
running = {}


def begin(number, prompt, tokens):
    request = engine.create_request()
    turn = genai.TurnOptions(request)
    turn.set_do_sample(False)
    turn.set_max_generated_tokens(tokens)
    turn.set_min_generated_tokens(tokens)
    running[request] = number
    request.begin_turn(np.array(prompt, np.int32), turn)


def run(told):
    for event in engine.run(events):
        if event.flags & genai.EngineEventFlags.FAILED:
            raise SystemExit(f"the engine failed: {event.error_code}")
        if event.flags & genai.EngineEventFlags.TOKEN:
            told(running[event.request], event.token)
        if event.flags & genai.EngineEventFlags.TURN_FINISHED:
            event.request.close()
            del running[event.request]


begin(None, [5, 6, 7], 4)
while engine.has_pending_requests():
    run(lambda number, id: None)
record.start()
while record.queue or running:
    if not running:
        record.wait()
    for i in record.take(len(record.queue)):
        begin(i, record.work[i]["prompt"], record.work[i]["max_new"])
    if engine.has_pending_requests():
        run(record.token)
record.print()
