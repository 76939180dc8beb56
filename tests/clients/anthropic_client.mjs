// npm's `@anthropic-ai/sdk` as it is: Messages, whole and streamed, with and without tools. The package is that of examples/node_agent.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const from = createRequire(new URL("../../examples/node_agent/package.json", import.meta.url));
const { Anthropic } = from("@anthropic-ai/sdk");
const { VERSION } = from("@anthropic-ai/sdk/version");

const client = new Anthropic({ maxRetries: 0 });
const tool = { name: "weather", description: "Weather of a city.", input_schema: { type: "object", properties: { city: { type: "string" } } } };
const messages = [{ role: "user", content: "Weather in Rome?" }];
// A tool's arguments are an object; what the model wrote instead is told as a text.
const textOf = (block) => (block.type === "text" ? block.text : (block.input?.INVALID_JSON ?? JSON.stringify(block.input)));
const said = [];

for (const tools of [{}, { tools: [tool] }]) {
  const asked = { model: "m", max_tokens: 40, system: "Be brief.", messages, ...tools };
  said.push((await client.messages.create(asked)).content.map(textOf));
  said.push((await client.messages.stream(asked).finalMessage()).content.map(textOf));
}
writeFileSync(process.env.SAID, JSON.stringify({ version: VERSION, said }));
console.log(1);
