// Makes the component: the agent, and an engine that runs it.

import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const { component } = await componentize({ sourcePath: "agent.js", witPath: "wit", worldName: "agent" });
await writeFile("{{name}}.wasm", component);
