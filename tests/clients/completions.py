"""The stock `openai` client, any version, on raw prompts: text and tokens, several at once, echoed, likely, streamed.

usage: completions.py URL API_KEY MODEL
"""
import sys

import openai

url, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)


def refused(param, **request):
    try:
        client.completions.create(**{"model": model, "prompt": "C:1=", **request})
    except openai.BadRequestError as error:
        assert error.param == param and error.code, (error.param, error.code)
        return
    raise AssertionError(f"{request} was accepted")


def streamed(**request):
    texts, reasons, usage = {}, {}, None
    for chunk in client.completions.create(model=model, stream=True, stream_options={"include_usage": True}, **request):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    return [texts[index] for index in sorted(texts)], [reasons[index] for index in sorted(reasons)], usage


one = client.completions.create(model=model, prompt="R:38291=", temperature=0)
assert one.object == "text_completion" and one.id.startswith("cmpl-"), one
assert (one.choices[0].text, one.choices[0].finish_reason) == ("19283", "stop"), one
assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (8, 6), one.usage
assert streamed(prompt="R:38291=", temperature=0) == (["19283"], ["stop"], one.usage)

many = client.completions.create(model=model, prompt=["C:12=", "S:321="], n=2, temperature=0, echo=True)
assert [choice.text for choice in many.choices] == ["C:12=12"] * 2 + ["S:321=123"] * 2, many
assert many.usage.prompt_tokens == 5 + 6, many.usage
assert streamed(prompt=["C:12=", "S:321="], n=2, temperature=0, echo=True)[0] == [c.text for c in many.choices]

# By the ids of the model's tokens: what the logits are biased by names the ids of digits.
likely = client.completions.create(model=model, prompt="R:38291=", temperature=0, logprobs=2).choices[0].logprobs
assert likely.tokens == list("19283") and likely.text_offset == [0, 1, 2, 3, 4], likely
assert all(len(top) == 2 and token in top for token, top in zip(likely.tokens, likely.top_logprobs)), likely
assert all(logprob > -0.1 for logprob in likely.token_logprobs), likely
tokens = client.completions.create(model=model, prompt=[[1, 2, 3], [4]], temperature=0, max_tokens=2)
assert len(tokens.choices) == 2 and tokens.usage.prompt_tokens == 4, tokens

short = client.completions.create(model=model, prompt="C:123456789=", temperature=0, max_tokens=3, stop=["9"])
assert (short.choices[0].text, short.choices[0].finish_reason) == ("123", "length"), short
stopped = client.completions.create(model=model, prompt="C:123456789=", temperature=0, stop="45")
assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("123", "stop"), stopped

refused("prompt", prompt="")
refused("prompt", prompt=[[1, 70000]])
refused("prompt", prompt="7" * 3000)
refused("suffix", suffix="x")
refused("best_of", best_of=4)
refused("echo", echo=True, logprobs=1)
print("raw prompts as the client expects")
