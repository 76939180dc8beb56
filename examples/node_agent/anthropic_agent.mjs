// An agent with npm's `@anthropic-ai/sdk`: it judges itself, and its last line is its reward.
// The client finds ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY by itself.
import Anthropic from "@anthropic-ai/sdk";

import { instructions, MAX_TURNS, MODEL, multiply, task } from "./task.mjs";

const client = new Anthropic();
const { run, parameters, ...definition } = multiply;
const tools = [{ ...definition, input_schema: parameters }];
const messages = [{ role: "user", content: task.question }];
let answer = "";

for (let turn = 0; turn < MAX_TURNS; turn++) {
  const reply = await client.messages.create({ model: MODEL, max_tokens: 512, system: instructions, messages, tools });
  messages.push({ role: "assistant", content: reply.content });
  const calls = reply.content.filter((block) => block.type === "tool_use");
  answer = reply.content.filter((block) => block.type === "text").map((block) => block.text).join("");
  if (!calls.length) break;
  messages.push({
    role: "user",
    content: calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: run(call.input) })),
  });
}

// A second reward, through the reward URL: was the tool used?
if (process.env.AGL_REWARD_URL) {
  await fetch(process.env.AGL_REWARD_URL, {
    method: "POST",
    headers: { authorization: `Bearer ${process.env.AGL_API_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ name: "used_tool", value: messages.length > 2 ? 1 : 0 }),
  });
}

console.log(answer);
console.log(JSON.stringify({ reward: answer.includes(task.answer) ? 1 : 0 }));
