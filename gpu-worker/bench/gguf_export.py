"""Writes a Qwen2 checkpoint as GGUF, for llama.cpp."""
import json
import gguf, numpy as np
from safetensors import safe_open

KINDS = {"f32": gguf.GGMLQuantizationType.F32, "q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def renamed(name):
    if "embed_tokens" in name:
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *middle, last = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.{last}"


def write(source, out, kind):
    """The checkpoint in folder `source` as file `out`, its matrices in `kind`: f32, q8_0 or q4_0."""
    config, tokenizer = (json.load(open(f"{source}/{name}.json")) for name in ("config", "tokenizer"))
    writer = gguf.GGUFWriter(out, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(float(config["rope_parameters"]["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    words = [f"<unused{id}>" for id in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(words)
    for word, id in tokenizer["model"]["vocab"].items():
        words[id], types[id] = word, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        words[added["id"]], types[added["id"]] = added["content"], gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])
    with safe_open(source + "/model.safetensors", "np") as weights:
        for name in weights.keys():
            tensor = weights.get_tensor(name).astype(np.float32)
            if tensor.ndim == 2 and kind != "f32":
                writer.add_tensor(renamed(name), gguf.quants.quantize(tensor, KINDS[kind]), raw_dtype=KINDS[kind])
            else:
                writer.add_tensor(renamed(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
