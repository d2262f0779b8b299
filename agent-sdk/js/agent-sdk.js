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
  if (answer instanceof Uint8Array) return { contentType: "application/octet-stream", body: answer, headers: [] };
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

const TRANSIENT = new Set(["connection-failed", "unavailable", "other", "io", "upstream"]);

/** Calls the host, and throws its typed error as ours. */
function called(what, call) {
  try {
    return call();
  } catch (error) {
    const told = error?.payload ?? error;
    if (typeof told?.tag !== "string") throw error;
    if (told.tag === "query-failed") throw new SqlError(told.val);
    const message = typeof told.val === "string" ? told.val : told.tag;
    throw new HostError(what, told.tag, message, TRANSIENT.has(told.tag));
  }
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
    this.#bucket = called("key-value", () => rawStore.open(name));
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
  if (given instanceof Uint8Array) return { tag: "binary", val: given };
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
