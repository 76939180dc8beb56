// An agent with npm's `openai`: it prints its answer, and a reward function of the run judges it.
// The client finds OPENAI_BASE_URL and OPENAI_API_KEY by itself.
import OpenAI from "openai";

import { instructions, MAX_TURNS, MODEL, multiply, task } from "./task.mjs";

const client = new OpenAI();
const { run, ...definition } = multiply;
const tools = [{ type: "function", function: definition }];
const messages = [
  { role: "system", content: instructions },
  { role: "user", content: task.question },
];

for (let turn = 0; turn < MAX_TURNS; turn++) {
  const stream = client.chat.completions.stream({ model: MODEL, messages, tools });
  const { message } = (await stream.finalChatCompletion()).choices[0];
  messages.push(message);
  if (!message.tool_calls?.length) {
    console.log(message.content);
    process.exit(0);
  }
  for (const call of message.tool_calls) {
    messages.push({ role: "tool", tool_call_id: call.id, content: run(JSON.parse(call.function.arguments)) });
  }
}
console.error(`no answer after ${MAX_TURNS} turns`);
process.exit(1);
