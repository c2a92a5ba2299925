"""The stock `openai` client against a server: 64 tasks of the built-in model, half streamed, 16 at once, then the errors.

usage: openai_client.py URL API_KEY MODEL
The model copies (C), reverses (R) or sorts (S) digits, so every answer can be checked; it misses about 1 in 300.
"""
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

url, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=2)
rng = random.Random(64)


def task(n):
    op = rng.choice("CRS")
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 10)))
    answer = {"C": digits, "R": digits[::-1], "S": "".join(sorted(digits))}[op]
    return n, f"{op}:{digits}=", answer


def ask(item):
    n, prompt, answer = item
    messages = [{"role": "user", "content": prompt}]
    if n % 2:
        whole = client.chat.completions.create(model=model, messages=messages, temperature=0)
        assert whole.choices[0].finish_reason == "stop" and whole.usage.prompt_tokens == len(prompt), whole
        return whole.choices[0].message.content == answer
    text, usage, reason = "", None, None
    stream = client.chat.completions.create(
        model=model, messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert reason == "stop" and usage.completion_tokens == len(answer) + 1, (reason, usage)
    return text == answer


def fails(kind, code, **request):
    try:
        client.chat.completions.create(**request)
    except kind as error:
        assert error.code == code and error.request_id.startswith("req_"), (error.code, error.request_id)
        return
    raise AssertionError(f"no {kind.__name__} for {request}")


with ThreadPoolExecutor(16) as pool:
    right = sum(pool.map(ask, [task(n) for n in range(64)]))
print(f"{right} of 64 right")
assert right >= 63

user = [{"role": "user", "content": "C:1="}]
fails(openai.NotFoundError, "model_not_found", model="nope", messages=user)
fails(openai.BadRequestError, "invalid_value", model=model, messages=[])
fails(openai.BadRequestError, "context_length_exceeded", model=model, messages=[{"role": "user", "content": "7" * 3000}])
fails(openai.BadRequestError, "invalid_value", model=model, messages=user, n=9)
assert [m.id for m in client.models.list()] == [model]
assert client.models.retrieve(model).object == "model"
try:
    openai.OpenAI(base_url=f"{url}/v1", api_key="ps_wrong_key", max_retries=0).models.list()
    raise AssertionError("a wrong key was accepted")
except openai.AuthenticationError:
    pass

# Sampling: a seed makes it repeatable, a stop string and a maximum end it.
sampled = [
    client.chat.completions.create(model=model, messages=user, temperature=1.5, seed=7, max_tokens=5).choices[0].message.content
    for _ in range(2)
]
assert sampled[0] == sampled[1], sampled
stopped = client.chat.completions.create(model=model, temperature=0, stop=["3"], messages=[{"role": "user", "content": "C:12345="}])
assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("12", "stop"), stopped
short = client.chat.completions.create(model=model, temperature=0, max_tokens=2, messages=[{"role": "user", "content": "C:12345="}])
assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("12", "length"), short

# Several answers to one request, each with a seed of its own; streamed ones are told apart by their index.
wander = dict(model=model, messages=[{"role": "user", "content": "C:31415="}], temperature=1.8, seed=3, n=4)
whole = client.chat.completions.create(**wander)
texts = [choice.message.content for choice in whole.choices]
assert [choice.index for choice in whole.choices] == [0, 1, 2, 3] and len(set(texts)) > 1, texts
assert whole.usage.prompt_tokens == 8 and whole.usage.total_tokens == 8 + whole.usage.completion_tokens, whole.usage
assert whole.usage.prompt_tokens_details.cached_tokens >= 0, whole.usage
pieces, reasons = [""] * 4, {}
for chunk in client.chat.completions.create(stream=True, **wander):
    for choice in chunk.choices:
        pieces[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
assert pieces == texts and set(reasons.values()) <= {"stop", "length"} and len(reasons) == 4, (pieces, texts, reasons)

# How likely the tokens were; the same whole and streamed.
likely = dict(model=model, messages=[{"role": "user", "content": "R:38291="}], temperature=0, logprobs=True, top_logprobs=2)
told = client.chat.completions.create(**likely).choices[0].logprobs.content
assert [token.token for token in told] == list("19283") and all(len(token.top_logprobs) == 2 for token in told), told
assert all(token.logprob > -0.1 and bytes(token.bytes).decode() == token.token for token in told), told
streamed = []
for chunk in client.chat.completions.create(stream=True, **likely):
    for choice in chunk.choices:
        streamed += choice.logprobs.content if choice.logprobs else []
assert streamed == told, streamed

# An answer of a demanded form, whole and streamed.
form = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "integer", "minimum": 1000, "maximum": 1999}}}
asked = dict(model=model, messages=[{"role": "user", "content": "R:38291="}], temperature=0, response_format=form)
assert client.chat.completions.create(**asked).choices[0].message.content == "1928"
pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(stream=True, **asked) if c.choices]
assert "".join(pieces) == "1928", pieces
impossible = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array", "uniqueItems": True}}}
fails(openai.BadRequestError, "invalid_value", model=model, messages=user, response_format=impossible)
tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
fails(openai.BadRequestError, "unsupported_parameter", model=model, messages=user, tools=[tool])

# vLLM's names for what OpenAI has not, as extra fields.
extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0}
narrow = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "R:38291="}], extra_body=extra)
assert narrow.choices[0].message.content == "19283", narrow

# The answer's headers say how it was made.
raw = client.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": "C:99="}], temperature=0)
assert raw.headers["x-penstock-served-by"] == "fresh" and raw.headers["x-ratelimit-limit-requests"], raw.headers
print("errors, sampling and headers as the client expects")
