// The stock JavaScript client against a server: every endpoint, whole and streamed, and its errors.
//
// usage: OPENAI_JS=FOLDER node every_endpoint.mjs URL API_KEY MODEL
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { OpenAI } = createRequire(`${process.env.OPENAI_JS}/`)("openai");
const [url, key, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
const user = (content) => [{ role: "user", content }];

async function gathered(stream, piece) {
  let text = "";
  for await (const chunk of stream) text += piece(chunk) ?? "";
  return text;
}

// Models.
const models = await client.models.list();
assert.deepEqual(models.data.map(({ id }) => id), [model]);
assert.equal((await client.models.retrieve(model)).object, "model");

// Chat.
const chat = await client.chat.completions.create({ model, messages: user("R:38291="), temperature: 0 });
assert.equal(chat.choices[0].message.content, "19283");
assert.match(chat._request_id, /^req_/);
const spoken = await client.chat.completions.create({ model, messages: user("S:321="), temperature: 0, stream: true });
assert.equal(await gathered(spoken, (chunk) => chunk.choices[0]?.delta?.content), "123");

// Raw prompts.
const raw = await client.completions.create({ model, prompt: ["C:12=", "R:12="], temperature: 0, echo: true });
assert.deepEqual(raw.choices.map(({ text }) => text), ["C:12=12", "R:12=21"]);
const typed = await client.completions.create({ model, prompt: "S:654=", temperature: 0, stream: true });
assert.equal(await gathered(typed, (chunk) => chunk.choices[0]?.text), "456");

// Responses: whole, streamed, resumed, in the background, continued, cancelled, deleted.
const whole = await client.responses.create({ model, input: "R:4321=", temperature: 0 });
assert.equal(whole.output_text, "1234");
assert.equal((await client.responses.retrieve(whole.id)).status, "completed");
const events = [];
for await (const event of await client.responses.create({ model, input: "C:9876=", temperature: 0, stream: true })) {
  events.push(event);
}
assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, place) => place));
const rest = [];
const after = { stream: true, starting_after: 3 };
for await (const event of await client.responses.retrieve(events[0].response.id, after)) rest.push(event);
assert.deepEqual(rest, events.slice(4));
let behind = await client.responses.create({ model, input: "S:97531=", temperature: 0, background: true });
while (["queued", "in_progress"].includes(behind.status)) behind = await client.responses.retrieve(behind.id);
assert.equal(behind.output[0].content[0].text, "13579");
const next = await client.responses.create({ model, input: "R:12=", temperature: 0, previous_response_id: whole.id });
assert.equal(next.output_text, "21");
assert.equal((await client.responses.inputItems.list(next.id)).data.length, 3);
assert.equal((await client.responses.cancel(behind.id)).status, "completed");
await client.responses.delete(behind.id);

// Errors.
await assert.rejects(client.responses.retrieve(behind.id), { status: 404, code: "response_not_found" });
await assert.rejects(client.chat.completions.create({ model: "nope", messages: user("x") }), { status: 404, code: "model_not_found" });
await assert.rejects(client.chat.completions.create({ model, messages: [] }), { status: 400, param: "messages" });
await assert.rejects(new OpenAI({ baseURL: `${url}/v1`, apiKey: "ps_a_b" }).models.list(), { status: 401, code: "invalid_api_key" });
console.log("every endpoint as the JavaScript client expects");
