// What both agents share: how a program that AGL runs is told its task and its prompts. Outside AGL they have an example.
import { readFileSync } from "node:fs";

const EXAMPLE = { question: "What is 6 times 7?", answer: "42" };

export const task = process.env.AGL_TASK_FILE ? JSON.parse(readFileSync(process.env.AGL_TASK_FILE, "utf8")) : EXAMPLE;

const prompts = process.env.AGL_PROMPTS_FILE ? JSON.parse(readFileSync(process.env.AGL_PROMPTS_FILE, "utf8")) : {};

export const instructions = prompts.instructions ?? "Answer the question with one number. Use the tool for every product.";

export const multiply = {
  name: "multiply",
  description: "Multiply two numbers.",
  parameters: {
    type: "object",
    properties: { a: { type: "number" }, b: { type: "number" } },
    required: ["a", "b"],
  },
  run: ({ a, b }) => String(a * b),
};

export const MODEL = process.env.AGL_MODEL ?? "gpt-4o-mini";
export const MAX_TURNS = 5;
