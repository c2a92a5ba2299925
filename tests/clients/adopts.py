"""The stock `openai` client asks for answers that need not come out the same, and loses the first try of each.

usage: adopts.py URL API_KEY MODEL COUNT
Prints one line of JSON. The client knows nothing of jobs: its own retry is all that it does.
"""
import json
import sys

import openai

url, key, model, count = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=2)
answered = 0
for number in range(int(count)):
    # No seed, and a temperature: the same words asked again are another question, unless it is a retry.
    message = {"role": "user", "content": f"C:{number % 3}="}
    whole = client.chat.completions.create(model=model, temperature=1, messages=[message])
    answered += bool(whole.choices[0].finish_reason)
print(json.dumps({"asked": int(count), "answered": answered}))
