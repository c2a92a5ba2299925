#!/usr/bin/env python3
"""Makes the benchmark's models: random checkpoints with a trained tokenizer, and what each contender loads of them.

usage: models.py OUT_DIR SIZE...        SIZE: 5m 50m

For each size: `SIZE-hf` (a Qwen2 checkpoint), `SIZE-PRECISION` and `SIZE-PRECISION-all` (exported by onnxruntime-genai's
builder in fp32, int8 and int4, with the last position's logits only and with those of all; genai cannot run prompts of
different lengths together on the former), `SIZE-{f32,q8_0,q4_0}.gguf` (the same weights for llama.cpp). What is there is
left as it is.
"""
import os, random, shutil, subprocess, sys
os.environ["HF_HUB_OFFLINE"] = "1"

SIZES = {  # hidden, layers, heads, key-value heads, intermediate, vocabulary
    "5m": (256, 6, 4, 2, 704, 4096),
    "50m": (512, 12, 8, 2, 1792, 16384),
}
PRECISIONS = ["fp32", "int8", "int4"]
GGUF = {"fp32": "f32", "int8": "q8_0", "int4": "q4_0"}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CHATML = ("{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TEXT_BYTES = 24 << 20


def texts():
    """Python's own library, which every machine that gets here has."""
    left = TEXT_BYTES
    for folder, folders, files in os.walk(os.path.dirname(os.__file__)):
        folders[:] = sorted(name for name in folders if name != "site-packages")
        for file in sorted(files):
            if file.endswith((".py", ".txt")) and left > 0:
                with open(os.path.join(folder, file), encoding="utf-8", errors="ignore") as opened:
                    text = opened.read()
                left -= len(text)
                yield text


def checkpoint(size, out):
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    hidden, layers, heads, kv_heads, intermediate, vocabulary = SIZES[size]
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts(), trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>",
                            bos_token="<|endoftext|>", chat_template=CHATML).save_pretrained(out)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=4096, tie_word_embeddings=True,
        rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=2, pad_token_id=3,
        # The usual 0.02 leaves a random network nearly a constant function: answers would be one token repeated.
        initializer_range=0.06)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.05)  # zero unless drawn
    model.save_pretrained(out)


def export(source, out, precision, pruned):
    options = ["--extra_options", "prune_lm_head=true"] if pruned else []
    subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "random", "-i", source, "-o", out,
                    "-p", precision, "-e", "cpu", "-c", out + "-cache", *options],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(out + "-cache", ignore_errors=True)


def once(path, make):
    """Makes `path` under another name first, so that an interrupted run leaves nothing half made."""
    if not os.path.exists(path):
        print("making", os.path.basename(path), file=sys.stderr, flush=True)
        new = path + ".new"
        shutil.rmtree(new, ignore_errors=True)
        make(new)
        os.rename(new, path)


def main():
    import gguf_export
    out, sizes = os.path.abspath(sys.argv[1]), sys.argv[2:]
    os.makedirs(out, exist_ok=True)
    for size in sizes:
        source = f"{out}/{size}-hf"
        once(source, lambda path: checkpoint(size, path))
        for precision in PRECISIONS:
            once(f"{out}/{size}-{precision}", lambda path: export(source, path, precision, pruned=True))
            once(f"{out}/{size}-{precision}-all", lambda path: export(source, path, precision, pruned=False))
            kind = GGUF[precision]
            once(f"{out}/{size}-{kind}.gguf", lambda path: gguf_export.write(source, path, kind))


if __name__ == "__main__":
    main()
