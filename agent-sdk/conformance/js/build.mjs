// Makes the component: the agent, and an engine that runs it.

import { copyFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

// Beside the agent, as in a project of its own.
await copyFile("../../js/agent-sdk.js", "agent-sdk.js");
const { component } = await componentize({ sourcePath: "agent.js", witPath: "../../../wit", worldName: "agent" });
await writeFile("conformance.wasm", component);
