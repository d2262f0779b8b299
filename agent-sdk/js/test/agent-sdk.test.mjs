// What of the SDK needs no host: conversions and failures.

import "../support/host.mjs";
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

const sdk = await import("../agent-sdk.js");
const { agent, Output, Reject, Retry } = sdk;

const task = (body) => ({ id: "id", body: new TextEncoder().encode(body), headers: [["colour", "red"]] });
const handled = (handle, body = "") => agent(handle).handle(task(body));
const text = (output) => [output.contentType, new TextDecoder().decode(output.body)];

function failed(handle, body) {
  try {
    handled(handle, body);
  } catch (error) {
    return error;
  }
  return assert.fail("it succeeded");
}

const raising = (error) => () => {
  throw error;
};

test("what a handler gives", () => {
  assert.equal(handled(() => undefined), undefined);
  assert.deepEqual(text(handled(() => "é")), ["text/plain; charset=utf-8", "é"]);
  assert.deepEqual(text(handled(() => ({ a: [1] }))), ["application/json", '{"a":[1]}']);
  assert.deepEqual(text(handled(() => new Uint8Array([120]))), ["application/octet-stream", "x"]);
  assert.deepEqual(handled(() => new Output("x", "image/png", [["a", "b"]])).headers, [["a", "b"]]);
});

test("what a handler is given", () => {
  assert.deepEqual(text(handled((task) => task.json().a, '{"a":"b"}')), ["text/plain; charset=utf-8", "b"]);
  assert.equal(text(handled((task) => task.header("Colour")))[1], "red");
});

test("failures", () => {
  assert.match(failed((task) => task.json(), "{").val, /JSON/);
  assert.deepEqual(failed(raising(new Reject("no"))), { tag: "reject", val: "no" });
  assert.deepEqual(failed(raising(new Retry("later"))), { tag: "retry", val: "later" });
  assert.deepEqual(failed(raising(new Retry("later", 1500))), { tag: "retry-after", val: [1500n, "later"] });
  assert.ok(failed(raising(new TypeError("a mistake"))) instanceof TypeError);
});

test("the host's errors are typed", () => {
  const saying = (payload) => {
    globalThis.host = { get: raising(Object.assign(new Error(), { payload })) };
    return failed(() => sdk.cache.get("key"));
  };
  assert.deepEqual(saying({ tag: "unavailable", val: "away" }), { tag: "retry", val: "cache: away" });
  assert.deepEqual(saying({ tag: "access-denied", val: "no" }), { tag: "reject", val: "cache: no" });
  assert.equal(saying({ tag: "query-failed", val: { sqlstate: "40001", message: "in the way" } }).tag, "retry");
  assert.equal(saying({ tag: "query-failed", val: { sqlstate: "23505", message: "there" } }).tag, "reject");
});

test("values come back as they went", () => {
  const when = new Date("2026-11-28T03:04:05.678Z");
  for (const given of [null, true, 7, 2n ** 60n, 1.5, "é", when, { a: [1, null] }, [1, null, 3], ["a", null]]) {
    assert.deepEqual(sdk.value(sdk.parameter(given)), given);
  }
});

test("the types name what there is", async () => {
  const types = await readFile(new URL("../agent-sdk.d.ts", import.meta.url), "utf8");
  const declared = [...types.matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual([...new Set(declared)].sort(), Object.keys(sdk).sort());
  for (const [, name, body] of types.matchAll(/^export class (\w+)[^{]*{\n(.*?)^}/gms)) {
    const methods = [...body.matchAll(/^ {2}(?:get )?(\w+)(?:<[^>]*>)?\(/gm)].map(([, method]) => method);
    for (const method of methods) assert.ok(method in sdk[name].prototype, `${name}.${method}`);
  }
});
