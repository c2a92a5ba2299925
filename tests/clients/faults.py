"""The stock `openai` client behind a connection that fails: how many of its requests succeed, with its own retries alone.

usage: faults.py URL API_KEY MODEL COUNT SEED RETRIES
Prints one line of JSON. Every request asks for another answer, so each needs exactly one run of the model.
"""
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

url, key, model, count, seed, retries = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=int(retries))


def chat(prompt):
    whole = client.chat.completions.create(model=model, temperature=0, messages=[{"role": "user", "content": prompt}])
    return whole.choices[0].message.content


def streamed(prompt):
    message = {"role": "user", "content": prompt}
    stream = client.chat.completions.create(model=model, temperature=0, messages=[message], stream=True)
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def completion(prompt):
    return client.completions.create(model=model, prompt=prompt, temperature=0).choices[0].text


def response(prompt):
    return client.responses.create(model=model, input=prompt, temperature=0).output_text


kinds = [chat, streamed, completion] + ([response] if hasattr(client, "responses") else [])


def one(number):
    # Nine digits that no other request has: multiplying by what is prime to the modulus gives each number its own.
    digits = f"{(number * 7368787 + int(seed) * 15485863) % 10**9:09d}"
    try:
        return kinds[number % len(kinds)](f"C:{digits}=") == digits
    # A stream that breaks off is told in the words of the layer below, which is another one in each version.
    except Exception as error:
        return f"{type(error).__name__}: {error}"


with ThreadPoolExecutor(16) as pool:
    outcomes = list(pool.map(one, range(int(count))))
failed = [outcome for outcome in outcomes if isinstance(outcome, str)]
print(json.dumps({"asked": len(outcomes), "answered": len(outcomes) - len(failed), "right": outcomes.count(True), "failed": failed[:5]}))
