// The stock JavaScript client behind a connection that fails, as faults.py.
//
// usage: OPENAI_JS=FOLDER node faults.mjs URL API_KEY MODEL COUNT SEED RETRIES
import { createRequire } from "node:module";

const { OpenAI } = createRequire(`${process.env.OPENAI_JS}/`)("openai");
const [url, key, model, count, seed, retries] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: Number(retries) });

const kinds = [
  async (prompt) => {
    const messages = [{ role: "user", content: prompt }];
    return (await client.chat.completions.create({ model, temperature: 0, messages })).choices[0].message.content;
  },
  async (prompt) => {
    const messages = [{ role: "user", content: prompt }];
    let text = "";
    const stream = await client.chat.completions.create({ model, temperature: 0, messages, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    return text;
  },
  async (prompt) => (await client.completions.create({ model, prompt, temperature: 0 })).choices[0].text,
  async (prompt) => (await client.responses.create({ model, input: prompt, temperature: 0 })).output_text,
];

const outcomes = [];
let next = 0;
async function worker() {
  while (next < Number(count)) {
    const number = next++;
    const digits = String((number * 7368787 + Number(seed) * 15485863) % 1e9).padStart(9, "0");
    try {
      outcomes.push((await kinds[number % kinds.length](`C:${digits}=`)) === digits);
    } catch (error) {
      outcomes.push(`${error.constructor.name}: ${error.message}`);
    }
  }
}
await Promise.all(Array.from({ length: 16 }, worker));
const failed = outcomes.filter((outcome) => typeof outcome === "string");
const right = outcomes.filter((outcome) => outcome === true).length;
console.log(JSON.stringify({ asked: outcomes.length, answered: outcomes.length - failed.length, right, failed: failed.slice(0, 5) }));
