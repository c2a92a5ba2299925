"""The stock `openai` client on /v1/responses: whole, streamed, resumed, in the background, cancelled, continued.

usage: responses.py URL API_KEY MODEL
"""
import sys
import time

import openai

url, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code, (error.code, error)
        return
    raise AssertionError(f"no {kind.__name__}")


def ended(response):
    until = time.monotonic() + 30
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < until, response
        time.sleep(0.02)
        response = client.responses.retrieve(response.id)
    return response


# Whole: what was said, what it cost, and what was asked.
whole = client.responses.create(model=model, input="R:38291=", temperature=0, metadata={"a": "b"}, instructions="x")
assert (whole.output_text, whole.status, whole.object) == ("19283", "completed", "response"), whole
assert whole.usage.output_tokens == 6 and whole.usage.total_tokens == whole.usage.input_tokens + 6, whole.usage
assert whole.metadata == {"a": "b"} and whole.instructions == "x" and whole.store is not False, whole
again = client.responses.retrieve(whole.id)
assert again.model_dump() == whole.model_dump(), (again, whole)
short = client.responses.create(model=model, input="C:123456=", temperature=0, max_output_tokens=2)
assert (short.output_text, short.status, short.incomplete_details.reason) == ("12", "incomplete", "max_output_tokens")

# Streamed: every event numbered, the last one holds the response that is kept.
asked = dict(model=model, input=[{"role": "user", "content": "S:987654321="}], temperature=0)
events = list(client.responses.create(stream=True, **asked))
assert [event.sequence_number for event in events] == list(range(len(events))), events
kinds = [event.type for event in events]
assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed", kinds
said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
assert said == "123456789" == events[-1].response.output_text, said
kept = client.responses.retrieve(events[0].response.id)
assert kept.model_dump() == events[-1].response.model_dump(), (kept, events[-1].response)

# Resumed after any event: exactly the rest.
for after in range(len(events) - 1):
    rest = list(client.responses.retrieve(kept.id, stream=True, starting_after=after))
    assert [event.model_dump() for event in rest] == [event.model_dump() for event in events[after + 1 :]], after
with client.responses.stream(**asked) as stream:
    assert stream.get_final_response().output_text == "123456789"

# In the background: polled, streamed, cancelled twice, deleted.
behind = client.responses.create(model=model, input="R:456=", temperature=0, background=True)
assert behind.status in ("queued", "in_progress", "completed") and behind.background is True, behind
assert ended(behind).output_text == "654"
watched = list(client.responses.create(model=model, input="C:77=", temperature=0, background=True, stream=True))
assert [event.type for event in watched[:3]] == ["response.created", "response.queued", "response.in_progress"], watched
assert watched[-1].response.output_text == "77", watched[-1]
long = client.responses.create(model=model, input="C:1=", temperature=2, background=True, extra_body={"seed": 5})
first, second = client.responses.cancel(long.id), client.responses.cancel(long.id)
assert first.status in ("cancelled", "completed", "incomplete") and second.status == first.status, (first, second)
last = list(client.responses.retrieve(long.id, stream=True))[-1]
assert last.response.status == first.status, last
refused(openai.BadRequestError, "invalid_value", lambda: client.responses.cancel(whole.id))
client.responses.delete(behind.id)
refused(openai.NotFoundError, "response_not_found", lambda: client.responses.retrieve(behind.id))
refused(openai.NotFoundError, "response_not_found", lambda: client.responses.delete(behind.id))
refused(openai.NotFoundError, "response_not_found", lambda: client.responses.retrieve("resp_nonsense"))

# Continued: the conversation is the one before and its answer.
one = client.responses.create(model=model, input="C:11=", temperature=0)
two = client.responses.create(model=model, input="R:12=", temperature=0, previous_response_id=one.id)
assert (two.output_text, two.previous_response_id) == ("21", one.id), two
items = list(client.responses.input_items.list(two.id, order="asc"))
texts = [part.text for item in items for part in item.content]
assert texts == ["C:11=", "11", "R:12="], texts
newest = client.responses.input_items.list(two.id, limit=1)
assert newest.has_more and newest.data[0].content[0].text == "R:12=", newest
assert [item.id for item in client.responses.input_items.list(two.id, limit=1)] == [item.id for item in reversed(items)]
unknown = dict(model=model, input="C:1=", previous_response_id="resp_nonsense")
refused(openai.BadRequestError, "previous_response_not_found", lambda: client.responses.create(**unknown))

# Not kept.
passing = client.responses.create(model=model, input="C:5=", temperature=0, store=False)
assert passing.output_text == "5" and passing.store is False, passing
refused(openai.NotFoundError, "response_not_found", lambda: client.responses.retrieve(passing.id))

# Forms and refusals.
form = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "integer", "minimum": 1000, "maximum": 1999}}}
assert client.responses.create(model=model, input="R:38291=", temperature=0, text=form).output_text == "1928"
tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
refused(openai.BadRequestError, "unsupported_parameter", lambda: client.responses.create(model=model, input="C:1=", tools=[tool]))
refused(openai.BadRequestError, "context_length_exceeded", lambda: client.responses.create(model=model, input="7" * 3000))
refused(openai.NotFoundError, "model_not_found", lambda: client.responses.create(model="nope", input="C:1="))
print("responses as the client expects")
