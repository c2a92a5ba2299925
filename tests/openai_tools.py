"""The stock `openai` client against a model of random bytes: forms, tool calls and thoughts, whole and streamed.

usage: openai_tools.py URL API_KEY MODEL
The model says anything it may, so whatever keeps to its form does so because it must.
"""
import json
import sys

import openai

url, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["dam", "weir"]}, "level": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "level"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}} for name in ("gauge", "sluice")]
user = {"role": "user", "content": "go"}
silent = {"chat_template_kwargs": {"think": False}}


def right(text):
    value = json.loads(text)
    assert set(value) == {"kind", "level"} and value["kind"] in ("dam", "weir") and 0 <= value["level"] <= 99, value
    return value


def ask(stream=False, thinks=False, **more):
    more = {"model": model, "messages": [user], "temperature": 1.2, "max_tokens": 200, **more}
    more["extra_body"] = {"chat_template_kwargs": {"think": thinks}}
    if not stream:
        return client.chat.completions.create(**more)
    choices = {}
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **more):
        for choice in chunk.choices:
            said = choices.setdefault(choice.index, {"content": "", "reasoning": "", "calls": [], "reason": None})
            said["content"] += choice.delta.content or ""
            said["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            said["calls"] += choice.delta.tool_calls or []
            said["reason"] = choice.finish_reason or said["reason"]
    return choices


# A schema, for each of several answers.
form = {"type": "json_schema", "json_schema": {"name": "gauge", "strict": True, "schema": SCHEMA}}
whole = ask(response_format=form, n=3, seed=5)
values = [right(choice.message.content) for choice in whole.choices]
assert len(values) == 3 and [choice.finish_reason for choice in whole.choices] == ["stop"] * 3, whole
streamed = ask(stream=True, response_format=form, n=3, seed=5)
assert [json.loads(streamed[n]["content"]) for n in range(3)] == values, (streamed, values)
assert json.loads(ask(response_format={"type": "json_object"}, seed=1, max_tokens=400).choices[0].message.content[:1] + "}") == {}

# A tool that must be called: any of two, a named one; whole and streamed alike, ids and all.
for choice, names in (("required", {"gauge", "sluice"}), ({"type": "function", "function": {"name": "sluice"}}, {"sluice"})):
    asked = dict(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, seed=9)
    answer = ask(**asked).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None, answer
    (call,) = answer.message.tool_calls
    assert call.id.startswith("call_") and call.type == "function" and call.function.name in names, call
    right(call.function.arguments)
    said = ask(stream=True, **asked)[0]
    (delta,) = said["calls"]
    assert (delta.index, delta.function.name, delta.function.arguments) == (0, call.function.name, call.function.arguments), delta
    assert said["reason"] == "tool_calls" and not said["content"], said

# The call and its result go back into the conversation.
history = [user, answer.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "7"}]
assert right(ask(messages=history, response_format=form).choices[0].message.content)

# Thoughts have a field of their own, and are counted.
thinking = ask(thinks=True, max_tokens=20, seed=2)
assert thinking.choices[0].message.reasoning_content and thinking.choices[0].message.content == "", thinking
assert thinking.usage.completion_tokens_details.reasoning_tokens == 20, thinking.usage
said = ask(stream=True, thinks=True, max_tokens=20, seed=2)[0]
assert said["reasoning"] == thinking.choices[0].message.reasoning_content and not said["content"], said

# What cannot be done is refused by name.
for field, more in {
    "tools[0].function.parameters": {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "array", "uniqueItems": True}}}]},
    "tool_choice": {"tool_choice": "required"},
    "response_format.type": {"response_format": {"type": "xml"}},
}.items():
    try:
        ask(**more)
        raise AssertionError(f"{field} was accepted")
    except openai.BadRequestError as error:
        assert error.param == field and error.type == "invalid_request_error", (field, error.body)
print("forms, tools and thoughts as the client expects")
