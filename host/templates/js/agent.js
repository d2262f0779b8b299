// Greets whoever is named.

import { agent, Reject } from "./agent-sdk.js";

export const handler = agent((task) => {
  const { name } = Object(task.json());
  if (typeof name !== "string") throw new Reject("the body is not the JSON that this agent takes: it has no name");
  return { greeting: `Hello, ${name}!` };
});
