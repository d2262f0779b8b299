// Write agents for agent-host in JavaScript: a function from a task to a result.
//
//     import { agent } from "./agent-sdk.js";
//
//     export const handler = agent((task) => ({ greeting: `Hello, ${task.json().name}!` }));

import * as rawCache from "agent:runtime/cache@0.1.0";
import * as rawSecrets from "agent:runtime/secrets@0.1.0";
import * as rawSql from "agent:runtime/sql@0.1.0";
import * as rawTasks from "agent:runtime/tasks@0.1.0";
import * as rawConfig from "wasi:config/store@0.2.0-rc.1";
import * as rawPreopens from "wasi:filesystem/preopens@0.2.12";
import * as rawOutgoing from "wasi:http/outgoing-handler@0.2.12";
import * as rawHttp from "wasi:http/types@0.2.12";
import * as rawAtomics from "wasi:keyvalue/atomics@0.2.0-draft2";
import * as rawBatch from "wasi:keyvalue/batch@0.2.0-draft2";
import * as rawStore from "wasi:keyvalue/store@0.2.0-draft2";
import * as rawLog from "wasi:logging/logging@0.1.0-draft";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

// Tasks, outputs, failures

/** It will never work: a dead letter at once. */
export class Reject extends Error {}

/** It may work later: another attempt after the manifest's backoff, or not before `afterMs` have passed. */
export class Retry extends Error {
  constructor(message, afterMs) {
    super(message);
    this.afterMs = afterMs;
  }
}

/** A call to the host failed. One that may pass has the task tried again, any other has it rejected. */
export class HostError extends Error {
  constructor(what, code, message, transient) {
    super(`${what}: ${message}`);
    this.code = code;
    this.transient = transient;
  }
}

/** PostgreSQL refused a statement. */
export class SqlError extends HostError {
  constructor(error) {
    const transient = ["08", "40", "53", "57"].includes(error.sqlstate.slice(0, 2)) || error.sqlstate === "55P03";
    super("sql", "query-failed", `${error.message} (SQLSTATE ${error.sqlstate})`, transient);
    this.sqlstate = error.sqlstate;
    this.detail = error.detail;
    this.constraint = error.constraint;
  }

  /** Whether a row of this key is there already. */
  get isUniqueViolation() {
    return this.sqlstate === "23505";
  }
}

/** What a task that succeeded gives back, with a content type and headers of one's choice. */
export class Output {
  constructor(body, contentType, headers = []) {
    this.body = bytes(body);
    this.contentType = contentType;
    this.headers = headers;
  }
}

/** One unit of work, as one attempt sees it. */
export class Task {
  constructor(raw) {
    Object.assign(this, raw);
  }

  /** The body as text. One that is none is rejected. */
  text() {
    try {
      return decoder.decode(this.body);
    } catch {
      throw new Reject("the body is no UTF-8 text");
    }
  }

  /** The body as JSON. One that is none is rejected. */
  json() {
    try {
      return JSON.parse(this.text());
    } catch (error) {
      throw error instanceof Reject ? error : new Reject(`the body is not the JSON that this agent takes: ${error.message}`);
    }
  }

  /** The first header of this name. */
  header(name) {
    return this.headers.find(([other]) => other === name.toLowerCase())?.[1];
  }
}

function bytes(value) {
  return typeof value === "string" ? encoder.encode(value) : value;
}

/** What a handler gave, as the host takes it. */
function lowered(answer) {
  if (answer === undefined || answer === null) return undefined;
  if (answer instanceof Output) return { contentType: answer.contentType, body: answer.body, headers: answer.headers };
  if (ArrayBuffer.isView(answer)) return { contentType: "application/octet-stream", body: answer, headers: [] };
  if (typeof answer === "string") return { contentType: "text/plain; charset=utf-8", body: bytes(answer), headers: [] };
  return { contentType: "application/json", body: bytes(JSON.stringify(answer)), headers: [] };
}

/** A failure of the task, where the error is one. Anything else is a mistake in the agent, and traps. */
function failure(error) {
  if (error instanceof Reject) return { tag: "reject", val: error.message };
  if (error instanceof Retry && error.afterMs !== undefined) {
    return { tag: "retry-after", val: [BigInt(Math.max(0, Math.round(error.afterMs))), error.message] };
  }
  if (error instanceof Retry || (error instanceof HostError && error.transient)) {
    return { tag: "retry", val: error.message };
  }
  if (error instanceof HostError) return { tag: "reject", val: error.message };
  return undefined;
}

/** Makes a function the agent: what a module exports as `handler`. */
export function agent(handle) {
  return {
    handle(raw) {
      try {
        return lowered(handle(new Task(raw)));
      } catch (error) {
        throw failure(error) ?? error;
      }
    },
  };
}

const TRANSIENT = new Set([
  ...["connection-failed", "unavailable", "other", "io", "upstream"],
  // Of a request over HTTP.
  ...["DNS-timeout", "DNS-error", "destination-not-found", "destination-unavailable", "destination-IP-unroutable"],
  ...["connection-refused", "connection-terminated", "connection-timeout", "connection-read-timeout"],
  ...["connection-write-timeout", "connection-limit-reached", "HTTP-response-incomplete", "HTTP-response-timeout"],
]);

/** Calls the host, and throws its typed error as ours. */
function called(what, call) {
  try {
    return call();
  } catch (error) {
    throw hostError(what, error?.payload ?? error) ?? error;
  }
}

/** The host's typed error as ours, where it is one. */
function hostError(what, told) {
  if (typeof told === "string") return new HostError(what, told, told, TRANSIENT.has(told));
  if (typeof told?.tag !== "string") return undefined;
  if (told.tag === "query-failed") return new SqlError(told.val);
  const message = typeof told.val === "string" ? told.val : told.tag;
  return new HostError(what, told.tag, message, TRANSIENT.has(told.tag));
}

// Configuration, secrets, log

/** A value of the manifest's `[config]`. */
export function config(key, otherwise) {
  return called("config", () => rawConfig.get(key)) ?? otherwise;
}

/** A secret that the manifest lists under `[secrets]`. */
export function secret(name) {
  return called("secrets", () => rawSecrets.get(name)).reveal();
}

const line = (level) => (message, context = "") => rawLog.log(level, context, String(message));

/** Log lines. What goes to the console is logged too. */
export const log = { debug: line("debug"), info: line("info"), warn: line("warn"), error: line("error") };

// Follow-up tasks, and the running one

/** Submits a task to an agent that the manifest names under `grants.tasks`; gives its id. It leaves with this one. */
export function submit(agent, body, { delayMs, idempotencyKey, contentType, headers = [], maxAttempts } = {}) {
  const given = lowered(body) ?? { body: new Uint8Array(), contentType: undefined };
  const options = {
    delayMs: delayMs === undefined ? undefined : BigInt(Math.round(delayMs)),
    idempotencyKey,
    contentType: contentType ?? given.contentType,
    headers,
    maxAttempts,
  };
  return called("tasks", () => rawTasks.submit(agent, given.body, options));
}

/** Whether somebody cancelled the running task. */
export function isCancelled() {
  return rawTasks.isCancelled();
}

/** Says how far the running task is. */
export function progress(fraction, note) {
  rawTasks.progress(fraction, note);
}

// Key-value and cache

/** A key-value bucket that the manifest grants. */
export class Bucket {
  #bucket;

  constructor(name = "default") {
    // The host's error does not name the bucket.
    this.#bucket = called(`key-value: the bucket "${name}"`, () => rawStore.open(name));
  }

  /** The value of a key. */
  get(key) {
    return called("key-value", () => this.#bucket.get(key));
  }

  /** Sets a key. */
  set(key, value) {
    called("key-value", () => this.#bucket.set(key, bytes(value)));
  }

  /** Deletes a key, whether it is there or not. */
  delete(key) {
    called("key-value", () => this.#bucket.delete(key));
  }

  /** Whether a key is there. */
  exists(key) {
    return called("key-value", () => this.#bucket.exists(key));
  }

  /** Adds to a whole number and gives the sum; a key that is not there counts as 0. */
  increment(key, delta = 1) {
    return Number(called("key-value", () => rawAtomics.increment(this.#bucket, key, BigInt(delta))));
  }

  /** The values of several keys. */
  getMany(keys) {
    return new Map(called("key-value", () => rawBatch.getMany(this.#bucket, keys)));
  }

  /** Sets several keys. */
  setMany(values) {
    const pairs = Object.entries(values).map(([key, value]) => [key, bytes(value)]);
    called("key-value", () => rawBatch.setMany(this.#bucket, pairs));
  }
}

/** The cache, where the manifest grants it: values that may be forgotten. */
export const cache = {
  get: (key) => called("cache", () => rawCache.get(key)),
  set(key, value, ttlMs) {
    const ttl = ttlMs === undefined ? undefined : BigInt(Math.round(ttlMs));
    called("cache", () => rawCache.set(key, bytes(value), ttl));
  },
  delete: (key) => called("cache", () => rawCache.delete(key)),
  increment: (key, delta = 1) => Number(called("cache", () => rawCache.increment(key, BigInt(delta)))),
  expire: (key, ttlMs) => called("cache", () => rawCache.expire(key, BigInt(Math.round(ttlMs)))),
};

// SQL

/** A database that the manifest grants. Under `transaction = "task"` all that a task does in it commits together. */
export class Database {
  #connection;

  constructor(name = "main") {
    this.#connection = called("sql", () => rawSql.Connection.open(name));
  }

  /** Runs a statement and gives the number of rows that it affected. */
  execute(statement, ...parameters) {
    return Number(called("sql", () => this.#connection.execute(statement, parameters.map(parameter))));
  }

  /** Runs a statement for its rows, which come as they are asked for. */
  query(statement, ...parameters) {
    const cursor = called("sql", () => this.#connection.query(statement, parameters.map(parameter)));
    return rows(cursor, cursor.columns().map((column) => column.name));
  }

  /** The first row of a query, where it has one. */
  queryOne(statement, ...parameters) {
    for (const row of this.query(statement, ...parameters)) return row;
    return undefined;
  }
}

function* rows(cursor, names) {
  const rowsPerCall = 256;
  for (;;) {
    const batch = called("sql", () => cursor.next(rowsPerCall));
    if (batch.length === 0) return;
    for (const row of batch) yield Object.fromEntries(names.map((name, index) => [name, value(row[index])]));
  }
}

/** A value as the host takes it. Whole numbers and texts become the parameter's own type where they fit. */
export function parameter(given) {
  if (given === null || given === undefined) return { tag: "db-null" };
  if (typeof given === "boolean") return { tag: "boolean", val: given };
  if (typeof given === "bigint") return { tag: "int64", val: given };
  if (typeof given === "number") {
    return Number.isSafeInteger(given) ? { tag: "int64", val: BigInt(given) } : { tag: "floating64", val: given };
  }
  if (typeof given === "string") return { tag: "str", val: given };
  if (ArrayBuffer.isView(given)) return { tag: "binary", val: given };
  if (given instanceof Date) {
    const [date, time] = [
      [given.getUTCFullYear(), given.getUTCMonth() + 1, given.getUTCDate()],
      [given.getUTCHours(), given.getUTCMinutes(), given.getUTCSeconds(), given.getUTCMilliseconds() * 1_000_000],
    ];
    return { tag: "datetime", val: [...date, ...time] };
  }
  if (Array.isArray(given) && given.every((item) => item === null || typeof item === "string")) {
    return { tag: "array-str", val: given.map((item) => item ?? undefined) };
  }
  if (Array.isArray(given) && given.every((item) => item === null || Number.isSafeInteger(item))) {
    return { tag: "array-int64", val: given.map((item) => (item === null ? undefined : BigInt(item))) };
  }
  return { tag: "jsonb", val: bytes(JSON.stringify(given)) };
}

/** A value of a row as JavaScript has it: whole numbers that are safe as numbers, others as bigint. */
export function value(raw) {
  const whole = (number) => (Number.isSafeInteger(Number(number)) ? Number(number) : number);
  switch (raw.tag) {
    case "db-null":
      return null;
    case "int64":
      return whole(raw.val);
    case "jsonb":
      return JSON.parse(decoder.decode(raw.val));
    case "datetime": {
      const [year, month, day, hour, minute, second, nanosecond] = raw.val;
      return new Date(Date.UTC(year, month - 1, day, hour, minute, second, Math.floor(nanosecond / 1_000_000)));
    }
    case "date":
      return raw.val.map((part, index) => String(part).padStart(index === 0 ? 4 : 2, "0")).join("-");
    case "time":
      return raw.val.slice(0, 3).map((part) => String(part).padStart(2, "0")).join(":");
    case "array-int64":
      return Array.from(raw.val, (item) => (item === undefined || item === null ? null : whole(item)));
    case "array-int32":
    case "array-str":
    case "array-decimal":
      return Array.from(raw.val, (item) => item ?? null);
    default:
      return raw.val;
  }
}

// Outbound HTTP

/** A response, read whole. */
export class Response {
  constructor(status, headers, body) {
    Object.assign(this, { status, headers, body });
  }

  /** The response where its status is a success; else an error, with which the task is tried again where the status may pass. */
  ok() {
    if (this.status >= 200 && this.status < 300) return this;
    const transient = [408, 425, 429].includes(this.status) || (this.status >= 500 && this.status < 600);
    throw new HostError("http", "status", `the response has the status ${this.status}`, transient);
  }

  /** The body as text; what is none is replaced. */
  text() {
    return lenient.decode(this.body);
  }

  /** The body as JSON. */
  json() {
    try {
      return JSON.parse(this.text());
    } catch (error) {
      throw new HostError("http", "json", `the response is no JSON: ${error.message}`, false);
    }
  }

  /** The first header of this name. */
  header(name) {
    return this.headers.find(([other]) => other.toLowerCase() === name.toLowerCase())?.[1];
  }
}

const lenient = new TextDecoder();
const METHODS = ["get", "head", "post", "put", "delete", "options", "patch"];
// By the definition of wasi:io.
const WRITE_BYTES_MAX = 4096;
const READ_BYTES = 65_536n;

const drop = (resource) => resource[Symbol.dispose ?? Symbol.for("dispose")]?.();

function request(method, url, { body = "", headers = [], timeoutMs } = {}) {
  const parts = /^(https?):\/\/([^/?#]+)([^?#]*)(\?[^#]*)?/.exec(url);
  if (!parts) throw new HostError("http", "HTTP-request-URI-invalid", `"${url}" is no URL of http or https`, false);
  const [, scheme, authority, path, query] = parts;
  const named = method.toLowerCase();
  const entries = headers.map(([name, value]) => [name, bytes(value)]);
  const outgoing = new rawHttp.OutgoingRequest(called("http", () => rawHttp.Fields.fromList(entries)));
  called("http", () => {
    outgoing.setMethod(METHODS.includes(named) ? { tag: named } : { tag: "other", val: method });
    outgoing.setScheme({ tag: scheme === "https" ? "HTTPS" : "HTTP" });
    outgoing.setAuthority(authority);
    outgoing.setPathWithQuery(`${path || "/"}${query ?? ""}`);
  });
  let options;
  if (timeoutMs !== undefined) {
    options = new rawHttp.RequestOptions();
    options.setConnectTimeout(BigInt(Math.round(timeoutMs * 1_000_000)));
    options.setFirstByteTimeout(BigInt(Math.round(timeoutMs * 1_000_000)));
  }
  const content = outgoing.body();
  let future;
  try {
    future = rawOutgoing.handle(outgoing, options);
  } catch (error) {
    throw refused(error?.payload ?? error, authority) ?? error;
  }
  write(content, bytes(body));
  const answered = future.subscribe();
  answered.block();
  drop(answered);
  const answer = future.get()?.val;
  if (answer?.tag === "ok") return read(answer.val);
  throw refused(answer?.val, authority) ?? new HostError("http", "internal-error", "the host gave no response", false);
}

function refused(code, host) {
  const denied = ["HTTP-request-denied", "destination-IP-prohibited"].includes(code?.tag);
  if (!denied) return hostError("http", code);
  const message = `the request to ${host} was denied: add it to \`allowed_outbound_hosts\` under \`[grants]\` in agent.toml`;
  return new HostError("http", code.tag, message, false);
}

function write(content, body) {
  // Whoever refuses the request, or answers early, does not read the body: what they say counts.
  try {
    if (body.length > 0) {
      const stream = content.write();
      for (let start = 0; start < body.length; start += WRITE_BYTES_MAX) {
        stream.blockingWriteAndFlush(body.subarray(start, start + WRITE_BYTES_MAX));
      }
      drop(stream);
    }
    rawHttp.OutgoingBody.finish(content, undefined);
  } catch (error) {
    if (error?.payload === undefined) throw error;
  }
}

function read(response) {
  const fields = response.headers();
  const headers = fields.entries().map(([name, value]) => [name, lenient.decode(value)]);
  drop(fields);
  const incoming = response.consume();
  const stream = incoming.stream();
  const parts = [];
  for (;;) {
    try {
      parts.push(stream.blockingRead(READ_BYTES));
    } catch (error) {
      if (error?.payload?.tag === "closed") break;
      throw new HostError("http", "last-operation-failed", "the response broke off", true);
    }
  }
  drop(stream);
  drop(incoming);
  return new Response(response.status(), headers, joined(parts));
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Requests to the origins that the manifest's `allowed_outbound_hosts` names. A redirect is a response. */
export const http = {
  request,
  get: (url, options) => request("GET", url, options),
  post: (url, body, options) => request("POST", url, { ...options, body }),
};

// Files

/** Calls with the granted folder that a path is in, and the rest of the path. */
function inFolder(path, call) {
  const folders = rawPreopens.getDirectories();
  const found = folders.find(([, name]) => path.startsWith(name.endsWith("/") ? name : `${name}/`));
  if (!found) throw new HostError("files", "not-granted", `${path} is in no folder of \`files\` under \`[grants]\``, false);
  const [folder, name] = found;
  return called(`files: ${path}`, () => call(folder, path.slice(name.length).replace(/^\/+/, "")));
}

/** The content of a file in a granted folder. */
export function readFile(path) {
  return inFolder(path, (folder, rest) => {
    const file = folder.openAt({ symlinkFollow: true }, rest, {}, { read: true });
    const parts = [];
    for (let at = 0n, ended = false; !ended; ) {
      const [part, end] = file.read(READ_BYTES, at);
      parts.push(part);
      at += BigInt(part.length);
      ended = end || part.length === 0;
    }
    drop(file);
    return joined(parts);
  });
}

/** Writes a file in a granted folder, over what was there. */
export function writeFile(path, content) {
  const body = bytes(content);
  inFolder(path, (folder, rest) => {
    const file = folder.openAt({ symlinkFollow: true }, rest, { create: true, truncate: true }, { write: true });
    for (let at = 0; at < body.length; ) at += Number(file.write(body.subarray(at), BigInt(at)));
    drop(file);
  });
}
