// Puts the hooks in place; imported before the SDK.

import { register } from "node:module";

register("./hooks.mjs", import.meta.url);
