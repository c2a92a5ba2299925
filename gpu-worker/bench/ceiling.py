#!/usr/bin/env python3
"""The kernel ceiling: the same calls as a run of ours, with nothing in them but the matrix products.

usage: ceiling.py MODEL_DIR RAN.json        RAN.json: what `contender` printed

A graph of only the model's MatMul and MatMulNBits nodes, with its own weights, in its order, is run by ONNX Runtime
with one thread for every call that the engine made, with as many rows; of a prompt's part one row goes through the
vocabulary's product. No attention, normalisation, sampling, scheduling: no engine on these kernels can need less time.
All products of a width write to the same memory, so that the outputs' traffic is no larger than in the model. The
driver's own time, some 20 microseconds a call, counts against the ceiling.
"""
import json, sys, time
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper

folder, ran = sys.argv[1], json.load(open(sys.argv[2]))


def products(model):
    """`(node, inner size, columns)` of every product with a weight, and the nodes that make weights of weights."""
    sizes = {t.name: list(t.dims) for t in model.graph.initializer}
    makers = [n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in sizes]
    for node in makers:
        sizes[node.output[0]] = sizes[node.input[0]][::-1]
    found = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in sizes:
            found.append((node, *sizes[node.input[1]]))
        elif node.op_type == "MatMulNBits":
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            found.append((node, attributes["K"], attributes["N"]))
    return found, makers


def only_products(model):
    """The graph, and of each output `(name, columns, whether it is the vocabulary's)`."""
    found, makers = products(model)
    nodes, inputs, outputs = list(makers), {}, []
    for number, (node, inner, columns) in enumerate(found):
        side = "head" if "logits" in node.output else "body"
        inputs[f"{side}_{inner}"] = helper.make_tensor_value_info(f"{side}_{inner}", TensorProto.FLOAT, [f"{side}_rows", inner])
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0], copy.output[0] = f"{side}_{inner}", f"out_{number}"
        nodes.append(copy)
        outputs.append((f"out_{number}", columns, side))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "products", list(inputs.values()),
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name, _, _ in outputs],
        [t for t in model.graph.initializer if t.name in used])
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), list(inputs), outputs


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def binding(session, rows, head_rows):
    count, bound, memory = {"body": rows, "head": head_rows}, session.io_binding(), {}
    for name in inputs:
        side, inner = name.split("_")
        memory[name] = draw.standard_normal((count[side], int(inner)), np.float32)
        bound.bind_input(name, "cpu", 0, np.float32, memory[name].shape, memory[name].ctypes.data)
    for name, columns, side in outputs:
        shared = memory.setdefault((columns, side), np.empty((count[side], columns), np.float32))
        bound.bind_output(name, "cpu", 0, np.float32, shared.shape, shared.ctypes.data)
    return session, bound, memory


model, inputs, outputs = only_products(onnx.load(folder + "/model.onnx"))
draw, decoding = np.random.default_rng(0), session(model)
quantized = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
reading = decoding
if quantized and ran["reads_in_single_precision"]:
    for attribute in (attribute for node in quantized for attribute in node.attribute if attribute.name == "accuracy_level"):
        attribute.i = 1
    reading = session(model)


def shape(kind, count):
    """Rows of a call, and rows of its vocabulary's product: with quantised weights the engine computes two at least."""
    least = 2 if quantized else 1
    return kind, max(count, least), max(count if kind == "decode" else 1, least if count == 1 else 1)


calls = [shape(*call) for call in ran["calls"]]
bindings = {call: binding(reading if call[0] == "read" else decoding, *call[1:]) for call in set(calls)}
for call in {call[0]: call for call in calls}.values():
    bindings[call][0].run_with_iobinding(bindings[call][1])
wall, cpu = time.time(), time.process_time()
for call in calls:
    bindings[call][0].run_with_iobinding(bindings[call][1])
print(json.dumps({"cpu_s": time.process_time() - cpu, "wall_s": time.time() - wall, "calls": len(calls)}))
