// npm's `openai` as it is: chat, text completions and Responses, whole and streamed. The package is that of examples/node_agent.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const from = createRequire(new URL("../../examples/node_agent/package.json", import.meta.url));
const { OpenAI } = from("openai");
const { VERSION } = from("openai/version");

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: "Name a city of France." }];
const said = [];

for (const stream of [false, true]) {
  const chat = await client.chat.completions.create({ model: "m", messages, max_tokens: 12, n: 2, stream });
  const texts = ["", ""];
  for await (const part of stream ? chat : [chat])
    for (const choice of part.choices) texts[choice.index] += (choice.delta ?? choice.message).content ?? "";
  said.push(texts);
  const text = await client.completions.create({ model: "m", prompt: "Once upon a time", max_tokens: 12, stream });
  let whole = "";
  for await (const part of stream ? text : [text]) for (const choice of part.choices) whole += choice.text;
  said.push([whole]);
  const response = await client.responses.create({ model: "m", input: "Name a city.", max_output_tokens: 12, stream });
  if (stream) {
    let last;
    for await (const event of response) last = event;
    said.push([last.response.output.map((item) => item.content.map((part) => part.text).join("")).join("")]);
  } else said.push([response.output_text]);
}
writeFileSync(process.env.SAID, JSON.stringify({ version: VERSION, said }));
console.log(1);
