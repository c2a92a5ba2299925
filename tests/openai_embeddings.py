"""The stock `openai` client asks a server for vectors, as it does by itself (base64) and as numbers, then wrongly.

usage: openai_embeddings.py URL API_KEY MODEL CHAT_MODEL
"""
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

url, key, model, chat = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=2)
texts = ["the water is stored", "and promised to every lamp", "in the valley"]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


one = client.embeddings.create(model=model, input=texts[0])
assert one.object == "list" and one.model == model and one.data[0].index == 0, one
size = len(one.data[0].embedding)
assert abs(cosine(one.data[0].embedding, one.data[0].embedding) - 1) < 1e-6 and one.usage.prompt_tokens == one.usage.total_tokens > 2
several = client.embeddings.create(model=model, input=texts)
assert [d.index for d in several.data] == [0, 1, 2]
# The client turns the base64 that it asks for into numbers; asked for as numbers they are the same.
numbers = client.embeddings.create(model=model, input=texts, encoding_format="float")
for d, n in zip(several.data, numbers.data):
    assert all(abs(a - b) < 1e-6 for a, b in zip(d.embedding, n.embedding)), "base64 and float differ"
assert several.data[0].embedding == one.data[0].embedding, "the same text has the same vector in any company"
assert cosine(several.data[0].embedding, several.data[1].embedding) < 0.999
ids = client.embeddings.create(model=model, input=[[2, 5, 6, 3], [2, 7, 3]])
assert ids.usage.prompt_tokens == 7 and len(ids.data) == 2
short = client.embeddings.create(model=model, input=texts[0], dimensions=8)
assert len(short.data[0].embedding) == 8 and abs(math.sqrt(sum(x * x for x in short.data[0].embedding)) - 1) < 1e-6

with ThreadPoolExecutor(16) as pool:
    many = list(pool.map(lambda n: client.embeddings.create(model=model, input=[f"lamp {n}", texts[0]]), range(64)))
assert all(answer.data[1].embedding == one.data[0].embedding for answer in many)
large = client.embeddings.create(model=model, input=[f"lamp {n}" for n in range(2048)])
assert len(large.data) == 2048 and large.data[63].embedding == many[63].data[0].embedding
print(f"{size} numbers a vector; {len(many)} requests at once, then one of {len(large.data)} texts")


def fails(kind, code, param, call, **request):
    try:
        call(**request)
    except kind as error:
        assert (error.code, error.param) == (code, param), (error.code, error.param, error.message)
        return
    raise AssertionError(f"no {kind.__name__} for {request}")


make = client.embeddings.create
fails(openai.BadRequestError, "invalid_value", "input", make, model=model, input=[])
fails(openai.BadRequestError, "invalid_value", "input[1]", make, model=model, input=["a", ""])
fails(openai.BadRequestError, "invalid_value", "input", make, model=model, input=["a"] * 2049)
fails(openai.BadRequestError, "context_length_exceeded", "input[1]", make, model=model, input=["a", "water " * 500])
fails(openai.BadRequestError, "invalid_value", "dimensions", make, model=model, input="a", dimensions=size + 1)
fails(openai.BadRequestError, "invalid_value", "input[0]", make, model=model, input=[[1_000_000]])
fails(openai.BadRequestError, "wrong_model_kind", "model", make, model=chat, input="a")
fails(openai.NotFoundError, "model_not_found", "model", make, model="nope", input="a")
user = [{"role": "user", "content": "hi"}]
fails(openai.BadRequestError, "wrong_model_kind", "model", client.chat.completions.create, model=model, messages=user)
