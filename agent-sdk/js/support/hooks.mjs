// Stands where the host's interfaces are imported from: functions that a test puts there.

const names = ["get", "set", "delete", "increment", "expire", "open", "submit", "isCancelled", "progress", "log", "getMany", "setMany"];
const source = [
  ...names.map((name) => `const _${name} = (...args) => globalThis.host.${name}(...args); export { _${name} as ${name} };`),
  "export class Connection { static open(name) { return globalThis.host.openDatabase(name); } }",
].join("\n");

export function resolve(specifier, context, next) {
  return /^(agent|wasi):/.test(specifier) ? { url: `host:${specifier}`, shortCircuit: true } : next(specifier, context);
}

export function load(url, context, next) {
  return url.startsWith("host:") ? { format: "module", source, shortCircuit: true } : next(url, context);
}
