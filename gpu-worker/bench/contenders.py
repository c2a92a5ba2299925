"""Who takes part: the command of each contender for a model and a precision."""
import os, re
from models import GGUF

HERE = os.path.dirname(os.path.abspath(__file__))
# Slots; the export with all logits; what the contender is told: to share no prefixes, to leave attention to the export.
OURS = re.compile(r"^ours-(\d+|auto)(-all)?(-no-reuse)?(-exported-kernels)?$")
PEERS = {  # name: script, whether it needs the logits of all positions, sequences at a time
    "genai-1": ("genai.py", "", 1),
    "genai-static-8": ("genai.py", "-all", 8),
    "genai-engine-8": ("genai_engine.py", "-all", 8),
    "llama.cpp-1": ("llama.py", None, 1),
    "llama.cpp-8": ("llama.py", None, 8),
    "llama.cpp-16": ("llama.py", None, 16),
    "transformers-1": ("hf.py", None, 1),
    "transformers-8": ("hf.py", None, 8),
}
ALL = ["ours-8", "ours-12", "ours-16", "ours-24", "ours-auto", "ours-8-all", *PEERS]
QUICK = {  # of each precision: what was found best of ours and of the peers
    "fp32": ["ours-12", "ours-16", "genai-static-8"],
    "int8": ["ours-16", "ours-24", "genai-static-8", "genai-1"],
    "int4": ["ours-12", "ours-16", "genai-1", "llama.cpp-8"],
}


def is_ours(name):
    return OURS.match(name) is not None


def command(name, size, precision, work, place):
    """The program to run, or `None` if the contender has no such precision. `place`: cache, contender and library."""
    models, python = f"{place.cache}/models", f"{place.cache}/venv/bin/python"
    if match := OURS.match(name):
        slots, all_positions, *told = match.groups()
        folder = f"{models}/{size}-{precision}{all_positions or ''}"
        return [place.contender, folder, place.library, work, slots, *(f"-{flag}" for flag in told if flag)]
    script, suffix, batch = PEERS[name]
    if script == "hf.py":
        model = f"{models}/{size}-hf" if precision == "fp32" else None
    elif script == "llama.py":
        model = f"{models}/{size}-{GGUF[precision]}.gguf"
    else:
        model = f"{models}/{size}-{precision}{suffix}"
    return model and [python, f"{HERE}/peers/{script}", model, work, str(batch)]
